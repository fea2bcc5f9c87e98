/* libFuzzer behind two function pointers, so that a Python process can be what it drives: tools/_guided.py.
 *
 * Linked with libclang_rt.fuzzer_no_main and preloaded, it answers the coverage calls of every module compiled with
 * -fsanitize=fuzzer-no-link. */
#include <stddef.h>
#include <stdint.h>

typedef int (*el_test)(const uint8_t *data, size_t n);
typedef size_t (*el_mutator)(uint8_t *data, size_t n, size_t room, unsigned seed);

int LLVMFuzzerRunDriver(int *argc, char ***argv, el_test test);
size_t LLVMFuzzerMutate(uint8_t *data, size_t n, size_t room);

static el_mutator mutator;

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t room, unsigned seed) {
    return mutator ? mutator(data, n, room, seed) : LLVMFuzzerMutate(data, n, room);
}

int el_guide(int argc, char **argv, el_test test, el_mutator own) {
    mutator = own;
    return LLVMFuzzerRunDriver(&argc, &argv, test);
}

size_t el_mutate(uint8_t *data, size_t n, size_t room) { return LLVMFuzzerMutate(data, n, room); }
