/* The gradients of every combination as doubles in a file, built in float and in double;
 * tests/model/float_double.sh compares them: gradient_dump FILE            writes gradient_dump --compare A B
 * norm-wise by tensor, under 1e-4 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "small.h"

static void fail_now(const char *what)
{
    moire_error_print();
    fprintf(stderr, "gradient_dump: %s\n", what);
    exit(1);
}

static void write_model(const struct moire_model *model, const char *text, FILE *file)
{
    for (int i = 0; i < model->tensors.count; i++) {
        const struct moire_tensor *tensor = &model->tensors.list[i];
        fprintf(file, "%s: %s\n%lld\n", text, tensor->name, (long long)tensor->elements);
        for (int64_t element = 0; element < tensor->elements; element++)
            fprintf(file, "%.17g\n", (double)model->gradients[tensor->offset + element]);
    }
}

static void write_combination(int index, FILE *file)
{
    struct small small = small_combination(index);
    struct moire_config config;
    struct moire_mesh mesh;
    struct moire_model model;
    int32_t tokens[SMALL_SEQUENCES * (SMALL_SEQUENCE + 1)];
    char text[128];
    double loss;
    small_text(&small, text, sizeof text);
    small_tokens(7, tokens);
    if (small_config(&small, &config) || moire_mesh_create(&config, &mesh) ||
        moire_model_create(&config, &mesh, SMALL_SEQUENCES, true, &model))
        fail_now("no model");
    small_spread(&model);
    struct moire_batch batch = small_batch(&mesh, tokens);
    if (small_loss(&model, &batch, &loss)) fail_now("no loss");
    write_model(&model, text, file);
    moire_model_free(&model);
    moire_mesh_free(&mesh);
    moire_config_free(&config);
}

/* One tensor of both files: the norm of the difference over the norm. False at the end. */
static bool compare_tensor(FILE *a, FILE *b, int *bad, double *worst)
{
    char name[256], other[256];
    long long count, other_count;
    double difference = 0, norm = 0;
    if (!fgets(name, sizeof name, a)) return false;
    if (!fgets(other, sizeof other, b) || strcmp(name, other) != 0)
        fail_now("the files hold different tensors");
    if (fscanf(a, "%lld\n", &count) != 1 || fscanf(b, "%lld\n", &other_count) != 1 || count != other_count)
        fail_now("different sizes");
    for (long long i = 0; i < count; i++) {
        double x, y;
        if (fscanf(a, "%lf\n", &x) != 1 || fscanf(b, "%lf\n", &y) != 1) fail_now("a file ends early");
        difference += (x - y) * (x - y);
        norm += y * y;
    }
    double error = norm > 0 ? sqrt(difference / norm) : sqrt(difference);
    if (error > *worst) *worst = error;
    if (error <= 1e-4) return true;
    printf("%.*s: relative error %.3g\n", (int)strcspn(name, "\n"), name, error);
    ++*bad;
    return true;
}

static int compare(const char *path, const char *other)
{
    FILE *a = fopen(path, "r"), *b = fopen(other, "r");
    int bad = 0, tensors = 0;
    double worst = 0;
    if (!a || !b) fail_now("a file is missing");
    while (compare_tensor(a, b, &bad, &worst)) tensors++;
    printf("%d tensors, worst relative error %.3g\n", tensors, worst);
    fclose(a);
    fclose(b);
    return bad > 0 || tensors == 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--compare") == 0) return compare(argv[2], argv[3]);
    FILE *file = argc == 2 ? fopen(argv[1], "w") : NULL;
    if (!file) fail_now("expected a file to write");
    if (moire_mpi_start(false)) fail_now("no MPI");
    for (int index = 0; index < SMALL_COMBINATIONS; index++) write_combination(index, file);
    fclose(file);
    moire_mpi_stop();
    return 0;
}
