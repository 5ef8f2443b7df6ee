/* Numbers that Python must know too, by name: constants, sizes of structures, and where their fields lie. kernels.py
 * compares them before it calls anything.
 */
#ifndef CRYSTALFORMERS_TABLE_H
#define CRYSTALFORMERS_TABLE_H

#include <stddef.h>

typedef struct {
    const char *name;
    double value;
} TableEntry;

#define CONSTANT(name) {#name, name}
#define SIZE(type) {#type, sizeof(type)}
#define FIELD(type, name) {#type "." #name, offsetof(type, name)}
#define END {NULL, 0}

#endif
