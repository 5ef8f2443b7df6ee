/* Sums over the cosines between an image's direction and the axes of its atom's frames.
 *
 * The angular functions are smooth functions of one variable, the same for all images: series of a few dozen Chebyshev
 * polynomials. So the kernel sums those polynomials over an atom's images, two operations each for LANES heads, and the
 * caller multiplies the sums with the functions' coefficients: one small matrix product per atom instead of K
 * exponentials per image, head and axis. Images of little weight need few of them.
 */
#ifndef CRYSTALFORMERS_COSINES_H
#define CRYSTALFORMERS_COSINES_H

#include "frames.h"
#include "heads.h"

/* Images in one vector of the sums over orders, and vectors whose recurrences run side by side: as many as hide the
 * latency of one step, if there are registers for them. A block is what both make together. */
#ifdef __AVX512F__
#define ABREAST 2
#define VECTORS 8
#else
#define ABREAST 1
#define VECTORS 4
#endif
#define BLOCK (ABREAST * VECTORS)

typedef float images_heads __attribute__((vector_size(ABREAST * LANES * sizeof(float)), aligned(4)));

typedef struct {
    Frames frames;
    heads *moments;     /* (3, orders + 1): sums of T_l along each axis and the isotropic part; or their coefficients */
    images_heads *line; /* (orders): the same along one line, for each of the images abreast */
    int64_t *enough;    /* orders that each block of images needs */
    int64_t first;      /* first image that has a direction: not the atom itself, nor another on the same spot */
} Angles;

static void free_angles(Angles *angles) {
    free_frames(&angles->frames);
    free(angles->moments);
    free(angles->line);
    free(angles->enough);
}

/* How many sums an atom and head have of the angular encoding: for each axis the orders and the isotropic part. */
INLINE int64_t cosine_sums(const KernelInput *input) { return input->orders ? 3 * (input->orders + 1) : 0; }

/* One vector of the numbers of ABREAST images. */
INLINE images_heads abreast(const heads *each) {
#if ABREAST == 2
    return __builtin_shufflevector(each[0], each[1], 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    return each[0];
#endif
}

INLINE images_heads repeated(heads value) {
    const heads each[2] = {value, value};
    return abreast(each);
}

INLINE heads sum_abreast(images_heads value) {
#if ABREAST == 2
    return __builtin_shufflevector(value, value, 0, 1, 2, 3, 4, 5, 6, 7) +
           __builtin_shufflevector(value, value, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    return value;
#endif
}

INLINE images_heads cosine_of(const heads axis[3], const float *direction) {
    heads each[ABREAST];
    for (int m = 0; m < ABREAST; m++) {
        const float *r = direction + 3 * m;
        each[m] = axis[0] * r[0] + axis[1] * r[1] + axis[2] * r[2];
    }
    return abreast(each);
}

INLINE int64_t blocks_of(int64_t images) { return (images + BLOCK - 1) / BLOCK; }

/* The first of an atom's images that is at a distance; they are sorted. */
INLINE int64_t first_around(const float *distance, int64_t images) {
    int64_t first = 0;
    while (first < images && distance[first] == 0) first++;
    return first;
}

/* How many orders each block of images needs, from the first that has a direction on. Where the weights times
 * `scale` add up to 1, what all blocks leave out together changes no sum over images by more than the error of the
 * series; where they add up to more, by as much less. The images are sorted by distance, so that one block needs
 * about as many orders as the next. Sets the weights behind the last image to 0. */
INLINE void count_orders(Angles *angles, heads *weight, heads scale, int64_t images, const KernelInput *input) {
    const int64_t first = angles->first, blocks = blocks_of(images - first);
    int64_t orders = input->orders;
    for (int64_t n = images; n < first + blocks * BLOCK; n++) weight[n] = (heads){0};
    for (int64_t block = 0; block < blocks; block++) {
        heads sum = {0};
        for (int64_t n = 0; n < BLOCK; n++) sum += weight[first + block * BLOCK + n];
        const float whole = largest(sum * scale) * (float)blocks;
        while (orders < input->orders && whole * input->tail[orders] > 1) orders += 2;
        while (orders > 2 && whole * input->tail[orders - 2] <= 1) orders -= 2;
        angles->enough[block] = orders;
    }
}

/* moment[l] += sum of w T_l(t) over a block: T_0 = 1, T_1 = t, T_l = 2 t T_(l-1) - T_(l-2), the first two times w. */
INLINE void add_moments(images_heads *moment, const heads axis[3], const heads *weight, const float *direction,
                        int64_t orders) {
    images_heads twice[VECTORS], even[VECTORS], odd[VECTORS];
    for (int n = 0; n < VECTORS; n++) {
        const images_heads t = cosine_of(axis, direction + 3 * ABREAST * n);
        even[n] = *(const images_heads *)(weight + ABREAST * n);
        odd[n] = even[n] * t;
        twice[n] = t + t;
    }
    for (int64_t l = 0; l < orders; l += 2) {
        images_heads sum = even[0], next = odd[0];
        for (int n = 1; n < VECTORS; n++) {
            sum += even[n];
            next += odd[n];
        }
        moment[l] += sum;
        moment[l + 1] += next;
        for (int n = 0; n < VECTORS; n++) {
            even[n] = twice[n] * odd[n] - even[n];
            odd[n] = twice[n] * even[n] - odd[n];
        }
    }
}

/* out[n] += sum_l a_l T_l(t) for a block (Clenshaw). */
INLINE void add_series(heads *out, const images_heads *series, const heads axis[3], const float *direction,
                       int64_t orders) {
    images_heads twice[VECTORS], even[VECTORS] = {{0}}, odd[VECTORS] = {{0}};
    for (int n = 0; n < VECTORS; n++) {
        const images_heads t = cosine_of(axis, direction + 3 * ABREAST * n);
        twice[n] = t + t;
    }
    for (int64_t l = orders - 2; l > 0; l -= 2)
        for (int n = 0; n < VECTORS; n++) {
            odd[n] = twice[n] * even[n] + (series[l + 1] - odd[n]);
            even[n] = twice[n] * odd[n] + (series[l] - even[n]);
        }
    for (int n = 0; n < VECTORS; n++) {
        odd[n] = twice[n] * even[n] + (series[1] - odd[n]);
        *(images_heads *)(out + ABREAST * n) += 0.5f * twice[n] * odd[n] + (series[0] - even[n]);
    }
}

/* Whether a line is axis k of any frame. */
INLINE int is_axis(const Lines *lines, int k) { return any((lines->share[0][k] != 0) | (lines->share[1][k] != 0)); }

/* moments[k][l] = sum of w T_l(t_k) over all images with a direction and over the frames, times `scale`. Needs
 * `count_orders` before, as `cosine_series` does, and reads directions to the end of a block. */
INLINE void cosine_moments(Angles *angles, const heads *weight, const float *direction, heads scale, int64_t images,
                           int64_t orders) {
    memset(angles->moments, 0, 3 * (orders + 1) * sizeof(heads));
    for (int64_t line = 0; line < angles->frames.count; line++) {
        const Lines *lines = &angles->frames.rounds[line];
        memset(angles->line, 0, orders * sizeof(images_heads));
        for (int64_t block = 0, n = angles->first; n < images; block++, n += BLOCK)
            add_moments(angles->line, lines->axis, weight + n, direction + 3 * n, angles->enough[block]);
        for (int k = 0; k < 3; k++) {
            if (!is_axis(lines, k)) continue;
            const heads share[2] = {scale * lines->share[0][k], scale * lines->share[1][k]};
            for (int64_t l = 0; l < orders; l++)
                angles->moments[k * (orders + 1) + l] += sum_abreast(angles->line[l]) * share[l % 2];
        }
    }
}

/* out[n] += the series at the cosines of all images with a direction, summed over axes and frames. */
INLINE void cosine_series(heads *out, const Angles *angles, const float *direction, int64_t images,
                          int64_t orders) {
    for (int64_t line = 0; line < angles->frames.count; line++) {
        const Lines *lines = &angles->frames.rounds[line];
        memset(angles->line, 0, orders * sizeof(images_heads));
        for (int k = 0; k < 3; k++) {
            if (!is_axis(lines, k)) continue;
            for (int64_t l = 0; l < orders; l++)
                angles->line[l] += repeated(angles->moments[k * (orders + 1) + l] * lines->share[l % 2][k]);
        }
        for (int64_t block = 0, n = angles->first; n < images; block++, n += BLOCK)
            add_series(out + n, angles->line, lines->axis, direction + 3 * n, angles->enough[block]);
    }
}

/* The part of the whole weight `total` of the images that belongs to the mean over all axes. */
INLINE void isotropic_moments(Angles *angles, heads total, int64_t row, const KernelInput *input) {
    if (!input->isotropic) return;
    total *= *(const heads *)(input->isotropic + row);
    for (int k = 0; k < 3; k++) angles->moments[k * (input->orders + 1) + input->orders] = total;
}

/* What that part of a series adds to every image. */
INLINE heads isotropic_series(const Angles *angles, int64_t row, const KernelInput *input) {
    heads sum = {0};
    if (!input->isotropic) return sum;
    for (int k = 0; k < 3; k++) sum += angles->moments[k * (input->orders + 1) + input->orders];
    return sum * *(const heads *)(input->isotropic + row);
}

#endif
