/* The search for the lattice points within a radius of an atom, in steps that are vector code.
 *
 * The lattice is given as a lower triangular matrix T (L = T Q, Q orthogonal), in whose frame the image n of a pair
 * with fractional difference f has the coordinates
 *
 *     z = (f3 + n3) T33,   y = (f2 + n2) T22 + (f3 + n3) T32,   x = (f1 + n1) T11 + (f2 + n2) T21 + (f3 + n3) T31,
 *
 * so |z| <= R bounds n3, then n2, then n1, and no point outside the sphere is visited in the last loop. In a large cell
 * only the atoms of near bins are tried.
 *
 * Shapes: A atoms, B bins, C crystals.
 */
#ifndef CRYSTALFORMERS_IMAGE_SEARCH_H
#define CRYSTALFORMERS_IMAGE_SEARCH_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Counting and filling must agree to the last bit on what lies inside the sphere, and so should all processors: a
 * product and a sum must not be fused. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#define INLINE static inline __attribute__((always_inline))

/* Promises that the iterations of a loop do not depend on each other, so that it becomes vector code. */
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

typedef struct {
    const double *positions;      /* (A, 3) */
    const double *lattice;        /* (C, 3, 3) */
    const double *frac;           /* (A, 3) */
    const double *triangle;       /* (C, 3, 3) */
    const int64_t *crystal;       /* (A,) */
    const int64_t *ptr;           /* (C + 1,) */
    const int64_t *bins;          /* (C, 3) bins along each lattice vector */
    const int64_t *reach;         /* (C, 3) how many bins away an image may lie */
    const int64_t *first_bin;     /* (C,) */
    const int64_t *bin;           /* (A,) */
    const int64_t *bin_ptr;       /* (B + 1,) */
    const int64_t *binned;        /* (A,) atoms, bin by bin, ascending within one */
    double radius;
} BinnedAtoms;

/* One step of the search around an atom, from atoms to planes (n3), to lines (n2), to images (n1): every integer n
 * that the entries of the step before, its parents, allow, in columns, with what it inherits from its parent. */
typedef struct {
    int64_t count, capacity;
    double *n;                    /* the integer */
    double *f1, *f2, *f3;         /* fractional difference, with n added as far as it is chosen */
    double *z, *left;             /* coordinate, and what is left of R^2 for the others */
    double *centre;               /* where the next coordinate vanishes, in units of n */
    double *low, *many;           /* of the next step: first integer, and how many */
    int32_t *parent, *pair;
} Step;

enum { COLUMNS = 9, WIDTH = 4, BUCKETS_PER_IMAGE = 4, MOST = INT32_MAX / BUCKETS_PER_IMAGE - 1 };

typedef double quad __attribute__((vector_size(8 * WIDTH), aligned(8)));
typedef int32_t quad_int __attribute__((vector_size(4 * WIDTH), aligned(4)));

/* What one thread needs to find the images of one atom and to sort them. */
typedef struct {
    Step atoms, planes, lines, images;
    int64_t capacity;
    double *distance, *sorted;
    int32_t *bucket, *order, *start;
    int32_t *near;                /* atoms that may have images around */
    uint64_t *seen;               /* a zero bit for each atom of the crystal */
} Search;

static int resize(void **array, int64_t bytes) {
    void *larger = realloc(*array, bytes);
    if (larger) *array = larger;
    return !larger;
}

/* Memory for `count` integers, filled up to whole vectors; what was there is lost. Returns 1 if memory ran out. */
static int reserve(Step *step, double count) {
    if (!(count <= MOST)) return 1; /* NaN too */
    step->count = (int64_t)count;
    if (step->count + WIDTH <= step->capacity) return 0;
    const int64_t capacity = step->count + step->count / 2 + 64;
    if (resize((void **)&step->n, COLUMNS * capacity * sizeof(double))) return 1;
    if (resize((void **)&step->parent, 2 * capacity * sizeof(int32_t))) return 1;
    double **columns[] = {&step->f1, &step->f2, &step->f3, &step->z, &step->left, &step->centre, &step->low, &step->many};
    for (int k = 0; k < COLUMNS - 1; k++) *columns[k] = step->n + (k + 1) * capacity;
    step->pair = step->parent + capacity;
    step->capacity = capacity;
    return 0;
}

static void release(Search *s) {
    Step *steps[] = {&s->atoms, &s->planes, &s->lines, &s->images};
    for (int k = 0; k < 4; k++) {
        free(steps[k]->n);
        free(steps[k]->parent);
    }
    void *arrays[] = {s->distance, s->sorted, s->bucket, s->order, s->start, s->near, s->seen};
    for (int k = 0; k < 7; k++) free(arrays[k]);
}

INLINE void store(double *place, quad value) { *(quad *)place = value; }

/* The children of a step: their integers, and as many columns of the parent as `inherited` tells. Whole vectors are
 * written; the next child overwrites the surplus. */
INLINE int expand(const Step *parents, Step *children, int inherited) {
    double total = 0;
    for (int64_t p = 0; p < parents->count; p++) total += parents->many[p];
    if (reserve(children, total)) return 1;
    int64_t first = 0;
    for (int64_t p = 0; p < parents->count; p++) {
        const int64_t many = (int64_t)parents->many[p];
        for (int64_t t = 0; t < many; t += WIDTH) {
            const int64_t c = first + t;
            store(children->n + c, (parents->low[p] + (double)t) + (quad){0, 1, 2, 3});
            *(quad_int *)(children->parent + c) = (int32_t)p - (quad_int){0};
            if (inherited < 3) continue;
            store(children->f1 + c, parents->f1[p] - (quad){0});
            store(children->f2 + c, parents->f2[p] - (quad){0});
            store(children->f3 + c, parents->f3[p] - (quad){0});
            if (inherited < 6) continue;
            store(children->z + c, parents->z[p] - (quad){0});
            store(children->left + c, parents->left[p] - (quad){0});
            store(children->centre + c, parents->centre[p] - (quad){0});
        }
        first += many;
    }
    return 0;
}

/* Integers n with |n - centre| <= half: the first, and how many; none where nothing is left. */
INLINE void bound(double *low, double *many, double centre, double half, double left) {
    *low = ceil(centre - half);
    const double count = floor(centre + half) - *low + 1;
    *many = left >= 0 && count >= 0 ? count : 0; /* none for NaN */
}

/* Fractional differences to the near atoms, and the planes of each within the radius. */
static void begin_atoms(Step *atoms, const BinnedAtoms *in, int64_t i, const int32_t *near) {
    const double *own = in->frac + 3 * i, *T = in->triangle + 9 * in->crystal[i];
    const double half = fabs(in->radius / T[8]);
    double *f1 = atoms->f1, *f2 = atoms->f2, *f3 = atoms->f3;
    double *low = atoms->low, *many = atoms->many;
    const int64_t count = atoms->count;
    INDEPENDENT
    for (int64_t k = 0; k < count; k++) {
        const double *other = in->frac + 3 * (int64_t)near[k];
        f1[k] = other[0] - own[0];
        f2[k] = other[1] - own[1];
        f3[k] = other[2] - own[2];
        bound(low + k, many + k, -f3[k], half, 1);
    }
}

/* Coordinate z of the planes, and the lines in them. */
static void begin_planes(Step *planes, const double *T, double square) {
    const double t32 = T[7], t22 = T[4], t33 = T[8];
    const double *n = planes->n, *f2 = planes->f2;
    double *f3 = planes->f3, *z = planes->z, *left = planes->left;
    double *centre = planes->centre, *low = planes->low, *many = planes->many;
    const int64_t count = planes->count;
    INDEPENDENT
    for (int64_t k = 0; k < count; k++) {
        f3[k] += n[k];
        z[k] = f3[k] * t33;
        left[k] = square - z[k] * z[k];
        centre[k] = -f2[k] - f3[k] * t32 / t22;
        bound(low + k, many + k, centre[k], sqrt(left[k]) / fabs(t22), left[k]);
    }
}

/* Coordinate y of the lines, which takes the place of `left`, and the images on them. */
static void begin_lines(Step *lines, const double *T) {
    const double t11 = T[0], t21 = T[3], t31 = T[6], t22 = T[4];
    const double *n = lines->n, *f1 = lines->f1, *f2 = lines->f2, *f3 = lines->f3;
    double *left = lines->left, *centre = lines->centre;
    double *low = lines->low, *many = lines->many;
    const int64_t count = lines->count;
    INDEPENDENT
    for (int64_t k = 0; k < count; k++) {
        const double y = (n[k] - centre[k]) * t22, rest = left[k] - y * y;
        left[k] = y;
        centre[k] = -f1[k] - ((f2[k] + n[k]) * t21 + f3[k] * t31) / t11;
        bound(low + k, many + k, centre[k], sqrt(rest) / fabs(t11), rest);
    }
}

/* Half of the longest diagonal of a bin, and a little more for rounding. */
static double half_diagonal(const double *T, const int64_t *m) {
    double longest = 0;
    for (int corner = 0; corner < 4; corner++) {
        const double n[3] = {1.0 / m[0], (corner & 1 ? -1.0 : 1.0) / m[1], (corner & 2 ? -1.0 : 1.0) / m[2]};
        const double x = n[0] * T[0] + n[1] * T[3] + n[2] * T[6], y = n[1] * T[4] + n[2] * T[7], z = n[2] * T[8];
        longest = fmax(longest, x * x + y * y + z * z);
    }
    return 0.5 * sqrt(longest) * (1 + 1e-6);
}

/* Atoms that may have an image near atom i, ascending: those of the bins whose centres are near enough, or all of the
 * crystal where it has a single bin. `seen` holds a zero bit for each atom of the crystal, also afterwards. Returns how
 * many atoms there are. */
static int64_t near_atoms(const BinnedAtoms *in, int64_t i, int32_t *near, uint64_t *seen) {
    const int64_t c = in->crystal[i], *m = in->bins + 3 * c, *reach = in->reach + 3 * c;
    const int64_t first = in->ptr[c], atoms = in->ptr[c + 1] - first, own = in->bin[i] - in->first_bin[c];
    if (m[0] * m[1] * m[2] == 1) {
        for (int64_t k = 0; k < atoms; k++) near[k] = (int32_t)(first + k);
        return atoms;
    }
    const double *T = in->triangle + 9 * c, *frac = in->frac + 3 * i;
    /* A direction with one bin holds images of its atoms farther along than the bin itself. */
    const double farthest = m[0] > 1 && m[1] > 1 && m[2] > 1 ? in->radius + half_diagonal(T, m) : INFINITY;
    const int64_t b1 = own / (m[1] * m[2]), b2 = own / m[2] % m[1], b3 = own % m[2];
    for (int64_t d1 = -reach[0]; d1 <= reach[0]; d1++) {
        const double f1 = (b1 + d1 + 0.5) / m[0] - (frac[0] - floor(frac[0]));
        for (int64_t d2 = -reach[1]; d2 <= reach[1]; d2++) {
            const double f2 = (b2 + d2 + 0.5) / m[1] - (frac[1] - floor(frac[1]));
            const int64_t row = ((b1 + d1 + m[0]) % m[0] * m[1] + (b2 + d2 + m[1]) % m[1]) * m[2];
            for (int64_t d3 = -reach[2]; d3 <= reach[2]; d3++) {
                const double f3 = (b3 + d3 + 0.5) / m[2] - (frac[2] - floor(frac[2]));
                const double x = f1 * T[0] + f2 * T[3] + f3 * T[6], y = f2 * T[4] + f3 * T[7], z = f3 * T[8];
                if (x * x + y * y + z * z > farthest * farthest) continue;
                const int64_t b = in->first_bin[c] + row + (b3 + d3 + m[2]) % m[2];
                for (int64_t k = in->bin_ptr[b]; k < in->bin_ptr[b + 1]; k++) {
                    const int64_t atom = in->binned[k] - first;
                    seen[atom / 64] |= 1ull << (atom % 64);
                }
            }
        }
    }
    int64_t count = 0;
    for (int64_t word = 0; word < (atoms + 63) / 64; word++) {
        for (uint64_t rest = seen[word]; rest; rest &= rest - 1)
            near[count++] = (int32_t)(first + 64 * word + __builtin_ctzll(rest));
        seen[word] = 0;
    }
    return count;
}

/* The lines that hold images around atom i, in the order of their atoms, n3 and n2. Returns 1 if memory ran out. */
static int find_lines(Search *s, const BinnedAtoms *in, int64_t i) {
    const double *T = in->triangle + 9 * in->crystal[i];
    if (reserve(&s->atoms, (double)near_atoms(in, i, s->near, s->seen))) return 1;
    begin_atoms(&s->atoms, in, i, s->near);
    if (expand(&s->atoms, &s->planes, 3)) return 1;
    begin_planes(&s->planes, T, in->radius * in->radius);
    if (expand(&s->planes, &s->lines, 6)) return 1;
    begin_lines(&s->lines, T);
    return 0;
}

/* Images on the lines, n1 ascending; the squared distance takes the place of z. Returns 1 if memory ran out. */
static int find_images(Step *lines, Step *images, double t11) {
    if (expand(lines, images, 0)) return 1;
    const double *n = images->n, *centre = lines->centre, *y = lines->left, *z = lines->z;
    const int32_t *line = images->parent;
    const int64_t count = images->count;
    double *squared = images->z;
    INDEPENDENT
    for (int64_t e = 0; e < count; e++) {
        const int32_t l = line[e];
        const double x = (n[e] - centre[l]) * t11;
        squared[e] = x * x + y[l] * y[l] + z[l] * z[l];
    }
    return 0;
}

#endif
