/* What the attention kernels share: vectors of LANES heads, exp, and the layout of a batch.
 *
 * Shapes: A atoms, E images, P pairs, H heads padded to a multiple of LANES, D their width, K radial functions.
 */
#ifndef CRYSTALFORMERS_HEADS_H
#define CRYSTALFORMERS_HEADS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8
#define WINDOW_LANES 16

typedef float heads __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef int32_t heads_int __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef float window __attribute__((vector_size(WINDOW_LANES * sizeof(float)), aligned(4)));
typedef int32_t window_int __attribute__((vector_size(WINDOW_LANES * sizeof(float)), aligned(4)));

#define INLINE static inline __attribute__((always_inline))

/* Images whose weight is below exp(-NEGLIGIBLE) of the largest are not summed (half an ulp of float32). */
#define NEGLIGIBLE 17.5f

typedef struct {
    const float *distance;       /* (E,) */
    const float *taper;          /* (E,) */
    const int32_t *pair;         /* (E,) */
    const int64_t *ptr;          /* (A + 1,) */
    const int64_t *pair_ptr;     /* (A + 1,) */
    const int64_t *pair_source;  /* (P,) */
    const float *direction;      /* (E, 3) unit vectors; NULL without frames */
    const int64_t *frame_ptr;    /* (A H + 1,) frames that are given, of each atom and head; NULL for max frames */
    const float *frames;         /* (frames, 12) three axes and the share of each, for `frame_ptr` */
    const float *isotropic;      /* (A, H) share of the mean over all axes in given frames */
    const float *mean;           /* (nodes,) a grid that stands for that mean */
    float spacing;               /* distance between the centres of two radial functions */
    float per_width;             /* 1 / their standard deviation */
    float per_node;              /* 1 / distance between two nodes of the grid of cosines */
    float tie_width;             /* see frames.py */
    int64_t windows;             /* WINDOW_LANES-wide pieces that cover one radial window */
    int64_t count;               /* K; 0 leaves the value encoding out */
    int64_t nodes;               /* nodes of the grid of cosines; 0 without frames */
    int64_t head_groups;         /* H / LANES */
    int64_t head_dim;            /* D */
} Layout;

/* exp(x) for x <= 0: 2^n exp(r) with n the integer nearest to x / ln 2, a polynomial for exp(r) on |r| <= ln 2 / 2,
 * and 2^n by its bit pattern. */
#define DEFINE_EXP(name, vector, integer)                                             \
    INLINE vector name(vector x) {                                                    \
        const vector zero = x - x;                                                    \
        const integer low = x > zero - 87.0f;                                         \
        x = (vector)(((integer)x & low) | ((integer)(zero - 87.0f) & ~low));          \
        const integer n = __builtin_convertvector(x * 1.442695041f - 0.5f, integer);  \
        const vector nf = __builtin_convertvector(n, vector);                         \
        const vector r = (x - nf * 0.693359375f) + nf * 2.12194440e-4f;               \
        vector e = zero + 1.9875691500e-4f;                                           \
        e = e * r + 1.3981999507e-3f;                                                 \
        e = e * r + 8.3334519073e-3f;                                                 \
        e = e * r + 4.1665795894e-2f;                                                 \
        e = e * r + 1.6666665459e-1f;                                                 \
        e = e * r + 5.0000001201e-1f;                                                 \
        e = e * r * r + r + 1.0f;                                                     \
        return e * (vector)((n + 127) << 23);                                         \
    }
DEFINE_EXP(exp_heads, heads, heads_int)
DEFINE_EXP(exp_window, window, window_int)

INLINE heads maximum(heads a, heads b) {
    const heads_int first = a > b;
    return (heads)(((heads_int)a & first) | ((heads_int)b & ~first));
}

INLINE float largest(heads a) {
    float top = a[0];
    for (int lane = 1; lane < LANES; lane++) top = a[lane] > top ? a[lane] : top;
    return top;
}

/* Radial functions k = first .. first + windows * WINDOW_LANES - 1 at distance d, into `radial`; returns the row of
 * the first of them in an accumulator with `margin` rows before k = 1 and after k = K. Centres are subtracted before the
 * division by the width: the quotients are small differences of numbers up to K. */
INLINE int64_t radial_window(float *radial, float d, const Layout *layout) {
    static const window lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const int64_t margin = layout->windows * WINDOW_LANES;
    const int64_t first = (int64_t)(d / layout->spacing) - margin / 2 + 1;
    for (int64_t piece = 0; piece < layout->windows; piece++) {
        const window centre = ((float)(first + piece * WINDOW_LANES) + lane) * layout->spacing;
        const window t = (d - centre) * layout->per_width;
        *(window *)(radial + piece * WINDOW_LANES) = exp_window(-0.5f * t * t);
    }
    const int64_t row = first - 1 + margin;
    return row < layout->count + margin ? row : layout->count + margin;
}

#endif
