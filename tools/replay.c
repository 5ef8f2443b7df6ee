/* Calls one function of a compiled library with arguments read from a file, and writes what it left in memory.
 *
 *     replay LIBRARY CALL RESULT
 *
 * A call is: the name of the function (64 bytes); first and last row, the number of buffers, relocations and arrays, and
 * the buffer that is the shared structure (int64 each); each buffer, its size in front; relocations (buffer, offset,
 * buffer pointed to); arrays (a buffer, or -1 for none). The result is the status and all buffers, pointers as they were.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#include <windows.h>
#define LOAD(path) ((void *)LoadLibraryA(path))
#define FIND(library, name) ((void *)GetProcAddress((HMODULE)(library), name))
#else
#include <dlfcn.h>
#define LOAD(path) dlopen(path, RTLD_NOW)
#define FIND(library, name) dlsym(library, name)
#endif

typedef int RowFunction(int64_t first, int64_t last, const void *shared, void *const *arrays);

static void fail(const char *what) {
    fprintf(stderr, "replay: %s\n", what);
    exit(2);
}

static void get(void *place, size_t size, FILE *file) {
    if (size && fread(place, size, 1, file) != 1) fail("the call is cut off");
}

int main(int count, char **given) {
    if (count != 4) fail("give a library, a call and a result");
    void *library = LOAD(given[1]);
    FILE *file = fopen(given[2], "rb");
    if (!library || !file) fail(library ? "the call cannot be read" : "the library cannot be loaded");
    char name[64];
    int64_t head[6];
    get(name, sizeof name, file);
    get(head, sizeof head, file);
    const int64_t buffers = head[2], relocations = head[3], arrays = head[4], shared = head[5];
    char **buffer = calloc(buffers, sizeof *buffer);
    int64_t *size = calloc(buffers, sizeof *size), *place = calloc(3 * relocations + 1, sizeof *place);
    for (int64_t k = 0; k < buffers; k++) {
        get(&size[k], sizeof *size, file);
        /* Vectors are read whole, wherever a buffer ends; 64 bytes are the widest. */
        char *memory = calloc(1, size[k] + 128);
        buffer[k] = memory + (64 - (uintptr_t)memory % 64);
        get(buffer[k], size[k], file);
    }
    get(place, 3 * relocations * sizeof *place, file);
    for (int64_t k = 0; k < relocations; k++)
        memcpy(buffer[place[3 * k]] + place[3 * k + 1], &buffer[place[3 * k + 2]], sizeof(void *));
    void **array = calloc(arrays + 1, sizeof *array);
    for (int64_t k = 0, index; k < arrays; k++) {
        get(&index, sizeof index, file);
        array[k] = index < 0 ? NULL : buffer[index];
    }
    fclose(file);
    RowFunction *function = (RowFunction *)FIND(library, name);
    if (!function) fail("the library has no such function");
    const int64_t status = function(head[0], head[1], buffer[shared], array);
    for (int64_t k = 0; k < relocations; k++) memset(buffer[place[3 * k]] + place[3 * k + 1], 0, sizeof(void *));
    file = fopen(given[3], "wb");
    if (!file) fail("the result cannot be written");
    fwrite(&status, sizeof status, 1, file);
    for (int64_t k = 0; k < buffers; k++) fwrite(buffer[k], 1, size[k], file);
    return fclose(file) ? 2 : 0;
}
