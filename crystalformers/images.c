/* Every periodic image within a radius of every atom, sorted by distance; the compiled twin of images.py.
 *
 * The lattice is given as a lower triangular matrix T (L = T Q, Q orthogonal), in whose frame the image n of a pair
 * with fractional difference f has the coordinates
 *
 *     z = (f3 + n3) T33,   y = (f2 + n2) T22 + (f3 + n3) T32,   x = (f1 + n1) T11 + (f2 + n2) T21 + (f3 + n3) T31,
 *
 * so |z| <= R bounds n3, then n2, then n1, and no point outside the sphere is visited in the last loop.
 *
 * Shapes: A atoms, C crystals, E images, P pairs. Rows (target atoms) are independent.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Counting and filling must agree to the last bit on what lies inside the sphere, so neither may fuse a product and
 * a sum where the other does not. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

typedef struct {
    const double *frac;           /* (A, 3) */
    const double *triangle;       /* (C, 3, 3) */
    const int64_t *crystal;       /* (A,) */
    const int64_t *ptr;           /* (C + 1,) */
    double radius;
} Cells;

typedef struct {
    double squared;
    int32_t pair;
    int32_t n[3];
} Image;

/* Images of the pair (i, j) into `out`, or only their number when `out` is NULL. */
static int64_t images_of_pair(const Cells *cells, int64_t i, int64_t j, int32_t pair, Image *out) {
    const double *T = cells->triangle + 9 * cells->crystal[i], *fi = cells->frac + 3 * i, *fj = cells->frac + 3 * j;
    const double f1 = fj[0] - fi[0], f2 = fj[1] - fi[1], f3 = fj[2] - fi[2];
    const double square = cells->radius * cells->radius;
    const double h3 = fabs(cells->radius / T[8]);
    int64_t count = 0;
    for (double n3 = ceil(-f3 - h3); n3 <= floor(-f3 + h3); n3++) {
        const double z = (f3 + n3) * T[8], room_y = square - z * z;
        if (room_y < 0) continue;
        const double c2 = -f2 - (f3 + n3) * T[7] / T[4], h2 = sqrt(room_y) / fabs(T[4]);
        for (double n2 = ceil(c2 - h2); n2 <= floor(c2 + h2); n2++) {
            const double y = (n2 - c2) * T[4], room_x = room_y - y * y;
            if (room_x < 0) continue;
            const double c1 = -f1 - ((f2 + n2) * T[3] + (f3 + n3) * T[6]) / T[0], h1 = sqrt(room_x) / fabs(T[0]);
            const double low = ceil(c1 - h1), high = floor(c1 + h1);
            if (out)
                for (double n1 = low; n1 <= high; n1++) {
                    const double x = (n1 - c1) * T[0];
                    out[count++] = (Image){x * x + y * y + z * z, pair, {(int32_t)n1, (int32_t)n2, (int32_t)n3}};
                }
            else if (high >= low)
                count += (int64_t)(high - low) + 1;
        }
    }
    return count;
}

/* Number of images and of pairs of the target atoms first .. last - 1. */
int images_count(int64_t first, int64_t last, const Cells *cells, int64_t *images, int64_t *pairs) {
    for (int64_t i = first; i < last; i++) {
        const int64_t *bounds = cells->ptr + cells->crystal[i];
        images[i] = pairs[i] = 0;
        for (int64_t j = bounds[0]; j < bounds[1]; j++) {
            const int64_t count = images_of_pair(cells, i, j, 0, NULL);
            images[i] += count;
            pairs[i] += count > 0;
        }
    }
    return 0;
}

/* Sort by distance. Volume is uniform in d^3, so buckets in d^3 hold about one image each; a final insertion sort
 * orders what shares a bucket. */
static void sort_by_distance(Image *images, Image *sorted, int32_t *start, int64_t count, double radius) {
    const double scale = (double)count / (radius * radius * radius) * (1 - 1e-9);
    memset(start, 0, (count + 2) * sizeof(int32_t));
    for (int64_t e = 0; e < count; e++) {
        const int64_t bucket = (int64_t)(images[e].squared * sqrt(images[e].squared) * scale);
        start[(bucket < count ? bucket : count - 1) + 2]++;
    }
    for (int64_t b = 1; b < count + 2; b++) start[b] += start[b - 1];
    for (int64_t e = 0; e < count; e++) {
        const int64_t bucket = (int64_t)(images[e].squared * sqrt(images[e].squared) * scale);
        sorted[start[(bucket < count ? bucket : count - 1) + 1]++] = images[e];
    }
    for (int64_t e = 1; e < count; e++) {
        const Image image = sorted[e];
        int64_t place = e;
        for (; place > 0 && sorted[place - 1].squared > image.squared; place--) sorted[place] = sorted[place - 1];
        sorted[place] = image;
    }
}

/* Fill the rows first .. last - 1 of the lists whose starts are given. `shift` may be NULL. Returns 0, 1 if memory ran
 * out, or 2 if the numbers found differ from those counted. */
int images_fill(int64_t first, int64_t last, const Cells *cells, const int64_t *image_ptr, const int64_t *pair_ptr,
                double *distance, int32_t *pair, int32_t *shift, int64_t *pair_target, int64_t *pair_source) {
    int64_t longest = 0;
    for (int64_t i = first; i < last; i++)
        if (image_ptr[i + 1] - image_ptr[i] > longest) longest = image_ptr[i + 1] - image_ptr[i];
    Image *found = malloc((2 * longest + 1) * sizeof(Image)), *sorted = found + longest;
    int32_t *start = malloc((longest + 2) * sizeof(int32_t));
    int failure = !found || !start;
    for (int64_t i = first; i < last && !failure; i++) {
        const int64_t *bounds = cells->ptr + cells->crystal[i];
        int64_t count = 0, p = pair_ptr[i];
        for (int64_t j = bounds[0]; j < bounds[1]; j++) {
            const int64_t added = images_of_pair(cells, i, j, (int32_t)p, found + count);
            if (!added) continue;
            pair_target[p] = i;
            pair_source[p] = j;
            p++;
            count += added;
        }
        if (count != image_ptr[i + 1] - image_ptr[i] || p != pair_ptr[i + 1]) {
            failure = 2;
            break;
        }
        sort_by_distance(found, sorted, start, count, cells->radius);
        for (int64_t e = 0; e < count; e++) {
            const int64_t place = image_ptr[i] + e;
            distance[place] = sqrt(sorted[e].squared);
            pair[place] = sorted[e].pair;
            if (shift)
                for (int k = 0; k < 3; k++) shift[3 * place + k] = sorted[e].n[k];
        }
    }
    free(found);
    free(start);
    return failure;
}
