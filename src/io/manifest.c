/* run.json. Written whole each time, under another name first, so that it is valid at any moment. */
#include "moire/io/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "moire/observe/clock.h"

struct moire_manifest {
    char *path;       /* owned */
    json_t *root;     /* owned */
    json_t *segment;  /* of root: the one that this process writes */
    double start_seconds;
};

static void free_manifest(struct moire_manifest *manifest)
{
    json_decref(manifest->root);
    moire_release(manifest->path);
    moire_release(manifest);
}

/* A text as JSON; bytes that are not UTF-8 (names of files may have any) become question marks. */
static json_t *json_text(const char *text)
{
    json_t *json = json_string(text);
    char *ascii;
    if (json || moire_copy_text(text, &ascii) != MOIRE_OK) return json;
    for (char *at = ascii; *at; at++)
        if ((unsigned char)*at > 126) *at = '?';
    json = json_string(ascii);
    moire_release(ascii);
    return json;
}

/* json_object_set_new and json_array_append_new take NULL for a value that could not be made and fail. */
static bool set(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static moire_status fail_memory(const char *path)
{
    return moire_fail(MOIRE_NO_MEMORY, "no memory for %s; try again with less memory in use", path);
}

static moire_status path_of(const char *directory, char **path)
{
    struct moire_text text = { 0 };
    moire_status status = moire_text_add(&text, "%s/run.json", directory);
    if (status == MOIRE_OK) *path = text.data;
    else moire_text_free(&text);
    return status;
}

static moire_status check_root(const char *path, const json_t *root)
{
    const json_t *version = json_object_get(root, "format_version");
    if (!json_is_integer(version) || !json_is_array(json_object_get(root, "segments")))
        return moire_fail(MOIRE_BAD_DATA,
                          "%s is not the manifest of a run; expected format_version and segments; try to "
                          "move it away",
                          path);
    if (json_integer_value(version) == MOIRE_MANIFEST_VERSION) return MOIRE_OK;
    return moire_fail(MOIRE_BAD_DATA,
                      "%s has another format; found version %lld, expected %d; try the moire that wrote "
                      "it, or move it away",
                      path, (long long)json_integer_value(version), MOIRE_MANIFEST_VERSION);
}

static moire_status load(const char *path, json_t **root)
{
    char *data;
    int64_t bytes;
    json_error_t error;
    MOIRE_TRY(moire_file_read(path, &data, &bytes));
    json_t *read = json_loadb(data, (size_t)bytes, 0, &error);
    moire_release(data);
    if (!read)
        return moire_fail(MOIRE_BAD_DATA, "%s is not JSON; found at line %d: %s; try to move it away", path,
                          error.line, error.text);
    moire_status status = check_root(path, read);
    if (status == MOIRE_OK) *root = read;
    else json_decref(read);
    return status;
}

static moire_status load_or_make(const char *path, json_t **root)
{
    if (moire_file_exists(path)) return load(path, root);
    json_t *made = json_pack("{s:i, s:[]}", "format_version", MOIRE_MANIFEST_VERSION, "segments");
    if (!made) return fail_memory(path);
    *root = made;
    return MOIRE_OK;
}

static moire_status save(const struct moire_manifest *manifest)
{
    char *text = json_dumps(manifest->root, JSON_INDENT(2));
    if (!text) return fail_memory(manifest->path);
    moire_status status = moire_file_write(manifest->path, text, (int64_t)strlen(text));
    free(text);
    return status;
}

static json_t *wall_time(void)
{
    char text[24];
    moire_wall_text(text);
    return json_string(text);
}

/* Versions, one an entry. */
static json_t *versions_json(void)
{
    struct moire_text text = { 0 };
    json_t *list = json_array();
    if (moire_versions(&text) != MOIRE_OK) {
        json_decref(list);
        return NULL;
    }
    for (char *rest = NULL, *line = strtok_r(text.data, "\n", &rest); line && list;
         line = strtok_r(NULL, "\n", &rest))
        if (json_array_append_new(list, json_text(line)) != 0) {
            json_decref(list);
            list = NULL;
        }
    moire_text_free(&text);
    return list;
}

/* How this moire was compiled. */
static json_t *build_json(void)
{
    return json_pack("{s:s, s:b, s:b}", "compiler", __VERSION__,
#ifdef MOIRE_DEBUG
                     "debug", 1,
#else
                     "debug", 0,
#endif
#ifdef __SANITIZE_ADDRESS__
                     "sanitize", 1
#else
                     "sanitize", 0
#endif
    );
}

/* The CPUs that this process may use, as "0-3,8"; "" where the system does not tell. */
static moire_status binding_text(struct moire_text *text)
{
    int cpus = 1024;
    cpu_set_t *allowed = CPU_ALLOC(cpus);
    while (allowed &&
           sched_getaffinity(0, CPU_ALLOC_SIZE(cpus), allowed) < 0) { /* EINVAL: the machine has more */
        CPU_FREE(allowed);
        allowed = errno == EINVAL && cpus < 1 << 20 ? CPU_ALLOC(cpus *= 2) : NULL;
    }
    moire_status status = moire_text_add(text, "%s", "");
    for (int first = 0, end; allowed && first < cpus && status == MOIRE_OK; first = end + 1) {
        for (end = first; end < cpus && CPU_ISSET_S(end, CPU_ALLOC_SIZE(cpus), allowed); end++) { }
        const char *comma = text->bytes ? "," : "";
        if (end == first + 1) status = moire_text_add(text, "%s%d", comma, first);
        else if (end > first) status = moire_text_add(text, "%s%d-%d", comma, first, end - 1);
    }
    if (allowed) CPU_FREE(allowed);
    return status;
}

static json_t *binding_json(void)
{
    struct moire_text text = { 0 };
    json_t *json = binding_text(&text) == MOIRE_OK ? json_string(text.data) : NULL;
    moire_text_free(&text);
    return json;
}

static json_t *mesh_json(const struct moire_mesh *mesh)
{
    return json_pack("{s:i, s:i, s:i}", "groups", mesh->groups, "expert_ranks", mesh->expert.size, "nodes",
                     mesh->nodes);
}

/* {"train.steps": {"value": "400", "origin": "file"}, ...} */
static json_t *config_json(const struct moire_config *config)
{
    json_t *object = json_object();
    bool good = object != NULL;
    for (int i = 0; i < moire_parameter_count && good; i++) {
        const struct moire_parameter *parameter = &moire_parameters[i];
        struct moire_text value = { 0 };
        char name[128];
        snprintf(name, sizeof name, "%s.%s", parameter->section, parameter->key);
        good = moire_config_value(config, parameter, &value) == MOIRE_OK;
        json_t *entry = good ? json_object() : NULL;
        good = good && set(entry, "value", json_text(value.data ? value.data : ""))
            && set(entry, "origin", json_string(moire_origin_name(config->origins[i])));
        good = set(object, name, entry) && good;
        moire_text_free(&value);
    }
    if (good) return object;
    json_decref(object);
    return NULL;
}

static json_t *facts_json(const char *const (*facts)[2], int fact_count)
{
    json_t *object = json_object();
    for (int i = 0; i < fact_count && object; i++)
        if (!set(object, facts[i][0], json_text(facts[i][1]))) {
            json_decref(object);
            return NULL;
        }
    return object;
}

static json_t *host_json(void)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    return json_text(host);
}

/* Everything that is known at the start; NULL without memory. */
static json_t *segment_json(const struct moire_config *config, const struct moire_mesh *mesh,
                            int64_t first_step, const char *const (*facts)[2], int fact_count)
{
    json_t *segment = json_object();
    if (!segment) return NULL;
    bool good =
        set(segment, "start", wall_time()) && set(segment, "end", json_null()) &&
        set(segment, "seconds", json_null()) && set(segment, "first_step", json_integer(first_step)) &&
        set(segment, "last_step", json_null()) && set(segment, "outcome", json_string("running")) &&
        set(segment, "moire", json_string(PACKAGE_VERSION)) && set(segment, "build", build_json()) &&
        set(segment, "versions", versions_json()) && set(segment, "host", host_json()) &&
        set(segment, "ranks", json_integer(mesh->world.size)) &&
        set(segment, "nodes", json_integer(mesh->nodes)) &&
        set(segment, "threads", json_integer(omp_get_max_threads())) &&
        set(segment, "binding", binding_json()) && set(segment, "mesh", mesh_json(mesh)) &&
        set(segment, "seed", json_integer(config->run_seed)) &&
        set(segment, "facts", facts_json(facts, fact_count)) && set(segment, "config", config_json(config));
    if (good) return segment;
    json_decref(segment);
    return NULL;
}

static moire_status add_segment(struct moire_manifest *manifest, json_t *segment)
{
    json_t *segments = json_object_get(manifest->root, "segments");
    if (json_array_append_new(segments, segment) != 0)
        return fail_memory(manifest->path); /* frees it, takes NULL */
    manifest->segment = segment;
    return MOIRE_OK;
}

moire_status moire_manifest_start(const char *directory, const struct moire_config *config,
                                  const struct moire_mesh *mesh, int64_t first_step,
                                  const char *const (*facts)[2], int fact_count,
                                  struct moire_manifest **manifest)
{
    struct moire_manifest *made;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, 1, sizeof *made, &made));
    made->start_seconds = moire_seconds();
    moire_status status = moire_directory_make(directory);
    if (status == MOIRE_OK) status = path_of(directory, &made->path);
    if (status == MOIRE_OK) status = load_or_make(made->path, &made->root);
    if (status == MOIRE_OK)
        status = add_segment(made, segment_json(config, mesh, first_step, facts, fact_count));
    if (status == MOIRE_OK) status = save(made);
    if (status == MOIRE_OK) *manifest = made;
    else free_manifest(made);
    return status;
}

moire_status moire_manifest_end(struct moire_manifest *manifest, int64_t last_step, const char *outcome)
{
    if (!manifest) return MOIRE_OK;
    json_t *segment = manifest->segment;
    bool good = set(segment, "end", wall_time()) &&
                set(segment, "seconds", json_real(moire_seconds() - manifest->start_seconds)) &&
                set(segment, "last_step", json_integer(last_step)) &&
                set(segment, "outcome", json_text(outcome));
    moire_status status = good ? save(manifest) : fail_memory(manifest->path);
    free_manifest(manifest);
    return status;
}

static const char *text_of(const json_t *object, const char *key, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : otherwise;
}

static void print_integer(const json_t *object, const char *key, const char *title)
{
    const json_t *value = json_object_get(object, key);
    if (json_is_integer(value)) printf("  %-12s %lld\n", title, (long long)json_integer_value(value));
}

/* "  name    text" in lines of at most 80 columns. */
static void print_row(const char *name, const char *text)
{
    enum { INDENT = 15, COLUMNS = 80 };
    int column = printf("  %-12s", name);
    for (const char *rest = text; *rest;) {
        int letters = (int)strcspn(rest, " ");
        if (column >= INDENT && column + 1 + letters > COLUMNS) column = printf("\n%*s", INDENT - 1, "") - 1;
        column += printf(" %.*s", letters, rest);
        rest += letters;
        rest += strspn(rest, " ");
    }
    putchar('\n');
}

static void print_segment(size_t number, const json_t *segment)
{
    const json_t *last = json_object_get(segment, "last_step"), *facts = json_object_get(segment, "facts"),
                 *fact;
    const json_t *versions = json_object_get(segment, "versions");
    const char *name;
    printf("segment %zu: %s\n", number, text_of(segment, "outcome", "unknown"));
    printf("  %-12s %s to %s\n", "time", text_of(segment, "start", "unknown"),
           text_of(segment, "end", "unknown"));
    printf("  %-12s %lld to ", "steps",
           (long long)json_integer_value(json_object_get(segment, "first_step")));
    if (json_is_integer(last)) printf("%lld\n", (long long)json_integer_value(last));
    else printf("unknown\n");
    print_integer(segment, "ranks", "ranks");
    print_integer(segment, "nodes", "nodes");
    print_integer(segment, "threads", "threads");
    print_integer(segment, "seed", "seed");
    printf("  %-12s %s\n", "host", text_of(segment, "host", "unknown"));
    printf("  %-12s %s\n", "binding", text_of(segment, "binding", "unknown"));
    json_object_foreach((json_t *)facts, name, fact)
        print_row(name, json_is_string(fact) ? json_string_value(fact) : "");
    for (size_t i = 0; i < json_array_size(versions); i++) {
        const char *line = json_string_value(json_array_get(versions, i));
        printf("  %-12s %s\n", i ? "" : "versions", line ? line : "");
    }
}

moire_status moire_manifest_print(const char *directory)
{
    char *path;
    json_t *root;
    MOIRE_TRY(path_of(directory, &path));
    moire_status status = load(path, &root);
    moire_release(path);
    if (status != MOIRE_OK) return status;
    const json_t *segments = json_object_get(root, "segments");
    for (size_t i = 0; i < json_array_size(segments); i++) print_segment(i + 1, json_array_get(segments, i));
    json_decref(root);
    return MOIRE_OK;
}
