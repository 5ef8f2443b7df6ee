/* What the attention kernels share: vectors of LANES heads, powers of 2, radial functions, and the input of a batch.
 *
 * Shapes: A atoms, E images, P pairs, H heads padded to a multiple of LANES, D their width, K radial functions.
 */
#ifndef CRYSTALFORMERS_HEADS_H
#define CRYSTALFORMERS_HEADS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#define LANES 8
#define WINDOW_LANES 16

/* Radial functions in one vector: what a register holds. Compilers handle longer vectors badly. */
#if defined(__AVX512F__)
#define PIECE 16
#elif defined(__AVX2__)
#define PIECE 8
#else
#define PIECE 4
#endif

typedef float heads __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef int32_t heads_int __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef float piece __attribute__((vector_size(PIECE * sizeof(float)), aligned(4)));

#define INLINE static inline __attribute__((always_inline))

/* Weights of exp(-FAR_BELOW) and all that counts beside them are normal numbers of float32. */
#define FAR_BELOW 60.0f

#define LOG2_E 1.442695041f

/* Images whose radial functions are evaluated before they are used. */
#define GATHERED 8

/* Terms that are added one after the other. */
#define SUM_BLOCK 16

/* Where heads differ in width, the weights of many images are negligible for the narrow ones, and what they are
 * multiplied by makes numbers below 1.2e-38, with which an x86 processor computes up to a hundred times as slowly. From
 * here to `restore_denormals` they are zero. Other processors need no such help. */
INLINE unsigned flush_denormals(void) {
#if defined(__SSE__)
    const unsigned before = _mm_getcsr(), results = 1 << 15, operands = 1 << 6;
    _mm_setcsr(before | results | operands);
    return before;
#else
    return 0;
#endif
}

INLINE void restore_denormals(unsigned before) {
#if defined(__SSE__)
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

typedef struct {
    const float *distance;       /* (E,) */
    const float *envelope;       /* (E,) */
    const int32_t *pair;         /* (E,) */
    const int64_t *ptr;          /* (A + 1,) */
    const int64_t *pair_ptr;     /* (A + 1,) */
    const int64_t *pair_source;  /* (P,) */
    const float *direction;      /* (E + BLOCK, 3) unit vectors; NULL without frames */
    const float *tail;           /* (orders,) what the orders from l on add at most, in units of the series' error */
    const int64_t *frame_ptr;    /* (A H + 1,) frames that are given, of each atom and head; NULL for max frames */
    const float *frames;         /* (frames, 12) three axes and the share of each, for `frame_ptr` */
    const float *isotropic;      /* (A, H) share of the mean over all axes in given frames */
    const float *radial;         /* (terms, windows WINDOW_LANES) radial functions as polynomials; see radial_piece */
    float spacing;               /* distance between the centres of two radial functions */
    float tie_width;             /* see attention/frames/local.py */
    float negligible;            /* images whose weight is below exp(-negligible) of the largest are not summed */
    float negligible_backward;   /* the same in the backward pass */
    int64_t windows;             /* how many times WINDOW_LANES cover the radial functions that are not zero */
    int64_t terms;               /* coefficients of a radial function, an even number */
    int64_t count;               /* K; 0 leaves the value encoding out */
    int64_t orders;              /* Chebyshev polynomials of the cosines, an even number; 0 without frames */
    int64_t atoms;               /* A */
    int64_t head_groups;         /* H / LANES */
    int64_t head_dim;            /* D */
} KernelInput;

INLINE heads maximum(heads a, heads b) {
    const heads_int first = a > b;
    return (heads)(((heads_int)a & first) | ((heads_int)b & ~first));
}

/* Rows to columns of an 8 x 8 matrix. */
INLINE void transpose(heads m[LANES]) {
    heads t[LANES];
    for (int k = 0; k < LANES; k += 2) {
        t[k] = __builtin_shufflevector(m[k], m[k + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        t[k + 1] = __builtin_shufflevector(m[k], m[k + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int half = 0; half < LANES; half += 4)
        for (int k = half; k < half + 2; k++) {
            m[k] = __builtin_shufflevector(t[k], t[k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            m[k + 2] = __builtin_shufflevector(t[k], t[k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int k = 0; k < 4; k++) {
        t[k] = __builtin_shufflevector(m[k], m[k + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        t[k + 4] = __builtin_shufflevector(m[k], m[k + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int k = 0; k < LANES; k++) m[k] = t[k];
}

/* 2^x for x <= 0: 2^n by its bit pattern, n the integer nearest to x, times a polynomial for 2^r, r = x - n, to 5e-9.
 * Adding 1.5 2^23 rounds to an integer and leaves it in the lowest bits. */
INLINE heads exp2_heads(heads x) {
    const float rounder = 12582912.0f;
    x = maximum(x, x - x - 125.0f);
    const heads rounded = x + rounder, r = x - (rounded - rounder);
    heads e = r * 1.545315e-4f + 1.3390863e-3f;
    e = e * r + 9.618083e-3f;
    e = e * r + 5.5503570e-2f;
    e = e * r + 2.4022651e-1f;
    e = e * r + 6.9314718e-1f;
    e = e * r + 1.0f;
    return (heads)((heads_int)e + ((heads_int)rounded << 23));
}

INLINE float largest(heads a) {
    float top = a[0];
    for (int lane = 1; lane < LANES; lane++) top = a[lane] > top ? a[lane] : top;
    return top;
}

/* The radial functions that are not zero at a distance are those of a window around it. Between two centres each is a
 * polynomial of the place u, -1 <= u <= 1; its coefficients do not depend on where the window stands. Accumulators have
 * `margin` rows before k = 1 and after k = K, so that every window fits. */
INLINE int64_t cell_of(float distance, float per_spacing) { return (int64_t)(distance * per_spacing); }

/* One piece of the window at a distance in the given cell, that between two centres. */
INLINE piece radial_piece(float distance, int64_t cell, const float *coefficients, int64_t margin,
                          const KernelInput *input) {
    const float u = (distance - (float)cell * input->spacing) * (2 / input->spacing) - 1;
    const float squared = u * u, *c = coefficients + (input->terms - 2) * margin;
    piece even = *(const piece *)c, odd = *(const piece *)(c + margin);
    for (int64_t term = input->terms - 2; term > 0; term -= 2) {
        c -= 2 * margin;
        even = even * squared + *(const piece *)c;
        odd = odd * squared + *(const piece *)(c + margin);
    }
    return odd * u + even;
}

/* Images first .. end - 1 of a row lie in one cell; images are sorted by distance. */
INLINE int64_t end_of_cell(const float *distance, int64_t first, int64_t images, int64_t cell, float per_spacing) {
    int64_t end = first + 1;
    while (end < images && cell_of(distance[end], per_spacing) == cell) end++;
    return end;
}

/* sums[h][row] += sum over images of w_h b(d), (LANES, K + 2 margin). */
INLINE void add_radial(float *sums, const heads *weight, const float *distance, int64_t images, int64_t windows,
                       const KernelInput *input) {
    const int64_t margin = windows * WINDOW_LANES, rows = input->count + 2 * margin;
    const float per_spacing = 1 / input->spacing;
    for (int64_t first = 0, end; first < images; first = end) {
        const int64_t cell = cell_of(distance[first], per_spacing), row = cell + margin / 2;
        if (row >= input->count + margin) return;
        end = end_of_cell(distance, first, images, cell, per_spacing);
        for (int64_t k = 0; k < margin; k += PIECE) {
            piece total[LANES] = {{0}};
            for (int64_t n = first; n < end; n++) {
                const piece b = radial_piece(distance[n], cell, input->radial + k, margin, input);
                for (int h = 0; h < LANES; h++) total[h] += b * weight[n][h];
            }
            for (int h = 0; h < LANES; h++) *(piece *)(sums + h * rows + row + k) += total[h];
        }
    }
}

/* out[n] += sum over k of b_k(d) values[k], where `values` is (K + 2 margin) with the heads innermost. */
INLINE void gather_radial(heads *out, const heads *values, const float *distance, int64_t images, int64_t windows,
                          const KernelInput *input) {
    const int64_t margin = windows * WINDOW_LANES;
    const float per_spacing = 1 / input->spacing;
    for (int64_t first = 0, end; first < images; first = end) {
        const int64_t cell = cell_of(distance[first], per_spacing), row = cell + margin / 2;
        if (row >= input->count + margin) return;
        end = end_of_cell(distance, first, images, cell, per_spacing);
        for (int64_t k = 0; k < margin; k += PIECE) {
            heads near[PIECE];
            for (int m = 0; m < PIECE; m++) near[m] = values[row + k + m];
            for (int64_t start = first; start < end; start += GATHERED) {
                /* By way of memory: a number that is read from there reaches all lanes at no cost. */
                float b[GATHERED][PIECE];
                const int64_t stop = start + GATHERED < end ? start + GATHERED : end;
                for (int64_t n = start; n < stop; n++)
                    *(piece *)b[n - start] = radial_piece(distance[n], cell, input->radial + k, margin, input);
                for (int64_t n = start; n < stop; n++) {
                    heads sum[4] = {{0}};
                    for (int m = 0; m < PIECE; m += 4)
                        for (int part = 0; part < 4; part++) sum[part] += near[m + part] * b[n - start][m + part];
                    out[n] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
                }
            }
        }
    }
}

#endif
