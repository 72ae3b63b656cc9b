#include "moire/base/tensors.h"

#include <inttypes.h>
#include <string.h>

#include "moire/base/random.h"

enum { OFFSET_MULTIPLE = 16 }; /* elements: 64 bytes of float */

moire_status moire_tensors_create(struct moire_tensors *tensors)
{
    *tensors = (struct moire_tensors){ 0 };
    return MOIRE_OK;
}

void moire_tensors_free(struct moire_tensors *tensors)
{
    moire_release(tensors->list);
    moire_release(tensors->experts);
    *tensors = (struct moire_tensors){ 0 };
}

static moire_status check_tensor(const struct moire_tensors *tensors, const struct moire_tensor *tensor)
{
    if (tensor->name[0] == 0 || strnlen(tensor->name, MOIRE_TENSOR_NAME) == MOIRE_TENSOR_NAME)
        return moire_fail(MOIRE_FAILED,
                          "the name of a tensor is empty or too long; found '%.*s', expected 1 to %d letters",
                          MOIRE_TENSOR_NAME, tensor->name, MOIRE_TENSOR_NAME - 1);
    if (moire_tensors_find(tensors, tensor->name))
        return moire_fail(MOIRE_FAILED, "two tensors are called %s; expected each name once", tensor->name);
    if (tensor->dimensions < 1 || tensor->dimensions > MOIRE_TENSOR_DIMENSIONS)
        return moire_fail(MOIRE_FAILED,
                          "tensor %s has a wrong number of dimensions; found %d, expected 1 to %d",
                          tensor->name, tensor->dimensions, MOIRE_TENSOR_DIMENSIONS);
    int64_t elements = 1;
    for (int d = 0; d < tensor->dimensions; d++)
        if (tensor->shape[d] < 1 || __builtin_mul_overflow(elements, tensor->shape[d], &elements)
            || elements > INT64_MAX / 64) /* what an arena's bytes and padding can still be counted for */
            return moire_fail(MOIRE_FAILED,
                              "tensor %s has no elements or too many; found %" PRId64 " in dimension %d, "
                              "expected 1 or more and less than 2^57 in all",
                              tensor->name, tensor->shape[d], d);
    return MOIRE_OK;
}

moire_status moire_tensors_add(struct moire_tensors *tensors, const struct moire_tensor *tensor, int *index)
{
    MOIRE_TRY(check_tensor(tensors, tensor));
    MOIRE_TRY(moire_grow(MOIRE_MEMORY_OTHER, &tensors->list, &tensors->capacity, tensors->count + 1,
                         sizeof *tensor));
    struct moire_tensor *added = &tensors->list[tensors->count];
    *added = *tensor;
    added->offset = added->elements = 0;
    *index = tensors->count++;
    return MOIRE_OK;
}

/* Gives offsets to the tensors of one sharding, from `start` on; returns the elements of their run. */
static int64_t lay_out_run(struct moire_tensors *tensors, moire_sharding sharding, int64_t start)
{
    int64_t end = start;
    for (int t = 0; t < tensors->count; t++) {
        struct moire_tensor *tensor = &tensors->list[t];
        if (tensor->sharding != sharding) continue;
        tensor->offset = end;
        tensor->elements = moire_tensor_expert_elements(tensor);
        if (sharding == MOIRE_BY_EXPERT) tensor->elements *= tensors->local_experts;
        end += (tensor->elements + OFFSET_MULTIPLE - 1) / OFFSET_MULTIPLE * OFFSET_MULTIPLE;
    }
    return end - start;
}

static moire_status check_experts(const struct moire_tensors *tensors, const int64_t *experts,
                                  int64_t local_experts)
{
    for (int t = 0; t < tensors->count; t++) {
        const struct moire_tensor *tensor = &tensors->list[t];
        if (tensor->sharding != MOIRE_BY_EXPERT) continue;
        for (int64_t e = 0; e < local_experts; e++)
            if (experts[e] < 0 || experts[e] >= tensor->shape[0])
                return moire_fail(MOIRE_FAILED, "tensor %s has no expert %" PRId64 "; expected 0 to %" PRId64,
                                  tensor->name, experts[e], tensor->shape[0] - 1);
    }
    return MOIRE_OK;
}

moire_status moire_tensors_layout(struct moire_tensors *tensors, const int64_t *experts,
                                  int64_t local_experts)
{
    int64_t *copy;
    MOIRE_TRY(check_experts(tensors, experts, local_experts));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, local_experts, sizeof *copy, &copy));
    if (local_experts > 0) memcpy(copy, experts, (size_t)local_experts * sizeof *copy);
    moire_release(tensors->experts);
    tensors->experts = copy;
    tensors->local_experts = local_experts;
    tensors->dense_elements = lay_out_run(tensors, MOIRE_REPLICATED, 0);
    tensors->expert_elements = lay_out_run(tensors, MOIRE_BY_EXPERT, tensors->dense_elements);
    return MOIRE_OK;
}

const struct moire_tensor *moire_tensors_find(const struct moire_tensors *tensors, const char *name)
{
    for (int t = 0; t < tensors->count; t++)
        if (strcmp(tensors->list[t].name, name) == 0) return &tensors->list[t];
    return NULL;
}

int64_t moire_tensor_global_elements(const struct moire_tensor *tensor)
{
    int64_t elements = 1;
    for (int d = 0; d < tensor->dimensions; d++) elements *= tensor->shape[d];
    return elements;
}

int64_t moire_tensor_expert_elements(const struct moire_tensor *tensor)
{
    int64_t elements = moire_tensor_global_elements(tensor);
    return tensor->sharding == MOIRE_BY_EXPERT ? elements / tensor->shape[0] : elements;
}

const char *moire_tensors_at(const struct moire_tensors *tensors, int64_t index, int64_t *expert)
{
    *expert = -1;
    for (int t = 0; t < tensors->count; t++) {
        const struct moire_tensor *tensor = &tensors->list[t];
        if (index < tensor->offset || index >= tensor->offset + tensor->elements) continue;
        if (tensor->sharding == MOIRE_BY_EXPERT)
            *expert = tensors->experts[(index - tensor->offset) / moire_tensor_expert_elements(tensor)];
        return tensor->name;
    }
    return NULL;
}

static void store(moire_element element, void *arena, int64_t index, double value)
{
    if (element == MOIRE_FLOAT64) ((double *)arena)[index] = (double)(float)value;
    else ((float *)arena)[index] = (float)value;
}

/* A run of normals: elements [first, first + count) of the whole tensor go to `arena` from `offset` on. */
static void fill_normal(const struct moire_tensor *tensor, uint64_t seed, int64_t first, int64_t count,
                        moire_element element, void *arena, int64_t offset)
{
    uint64_t stream = moire_random_stream(tensor->name);
    int64_t end = first + count;
    if (count == 0) return;
#pragma omp parallel for schedule(static)
    for (int64_t pair = first / 2; pair < (end + 1) / 2; pair++) {
        double normals[2];
        moire_random_normal_pair(seed, stream, (uint64_t)pair, normals);
        for (int64_t i = 2 * pair; i < 2 * pair + 2; i++)
            if (i >= first && i < end)
                store(element, arena, offset + i - first, tensor->deviation * normals[i % 2]);
    }
}

static void initialise_tensor(const struct moire_tensors *tensors, const struct moire_tensor *tensor,
                              uint64_t seed, moire_element element, void *arena)
{
    if (tensor->initialiser == MOIRE_INIT_ONE)
        for (int64_t i = 0; i < tensor->elements; i++) store(element, arena, tensor->offset + i, 1);
    if (tensor->initialiser != MOIRE_INIT_NORMAL) return;
    if (tensor->sharding == MOIRE_REPLICATED) {
        fill_normal(tensor, seed, 0, tensor->elements, element, arena, tensor->offset);
        return;
    }
    int64_t each = moire_tensor_expert_elements(tensor);
    for (int64_t e = 0; e < tensors->local_experts; e++)
        fill_normal(tensor, seed, tensors->experts[e] * each, each, element, arena,
                    tensor->offset + e * each);
}

void moire_tensors_initialise(const struct moire_tensors *tensors, uint64_t seed, moire_element element,
                              void *arena)
{
    memset(arena, 0, (size_t)moire_tensors_elements(tensors) * moire_element_bytes(element));
    for (int t = 0; t < tensors->count; t++)
        initialise_tensor(tensors, &tensors->list[t], seed, element, arena);
}
