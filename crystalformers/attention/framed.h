/* Local frames (CrystalFramer) and sums over the cosines between an image's direction and their axes.
 *
 * The angular functions are smooth functions of one variable, the same for all images. So the weights of an atom's images
 * are spread on a grid of that variable by interpolation of order ORDER, and the caller multiplies the grid with the
 * functions' values at its nodes: one small matrix product per atom instead of K exponentials per image, head and axis.
 * Grids are (3 axes, nodes) per head; node 0 lies ORDER / 2 - 1 steps below -1.
 */
#ifndef CRYSTALFORMERS_FRAMED_H
#define CRYSTALFORMERS_FRAMED_H

#include "heads.h"

#define ORDER 8

/* As in frames.py; float32 cannot resolve less than the last. */
#define COLLINEAR 1e-4f
#define PENALTY_FLOOR 1e-5f
#define EXACTLY_COLLINEAR 1e-6f

typedef float nodes __attribute__((vector_size(ORDER * sizeof(float)), aligned(4)));

typedef struct {
    float axis[3][3];
    float share;
} Frame;

typedef struct {
    Frame *items;
    int64_t count, capacity;
} FrameList;

/* One frame for each of LANES heads; heads with fewer frames than others have share 0 in the later ones. */
typedef struct {
    heads axis[3][3];
    heads share;
} Frames;

typedef struct {
    FrameList lane[LANES];
    Frames *rounds;
    int64_t count, capacity;
    float *grid; /* LANES grids */
} Angles;

typedef struct {
    int64_t image;
    float share;
} Candidate;

static int add_frame(FrameList *list, const Frame *frame) {
    if (list->count == list->capacity) {
        const int64_t capacity = list->capacity ? 2 * list->capacity : 16;
        Frame *items = realloc(list->items, capacity * sizeof(Frame));
        if (!items) return 1;
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *frame;
    return 0;
}

static void free_angles(Angles *angles) {
    for (int lane = 0; lane < LANES; lane++) free(angles->lane[lane].items);
    free(angles->rounds);
    free(angles->grid);
}

INLINE int any(heads_int mask) {
    int32_t bits = 0;
    for (int lane = 0; lane < LANES; lane++) bits |= mask[lane];
    return bits != 0;
}

INLINE float smooth_step(float x) {
    x = x < 0 ? 0 : x > 1 ? 1 : x;
    return x * x * x * (10 + x * (6 * x - 15));
}

/* Weight of an image in the race for the second axis: w (1 - |cos|), zero if it is too near the line of the first. */
INLINE heads second_score(heads w, const heads e1[3], const float *r, float least) {
    const heads dot = e1[0] * r[0] + e1[1] * r[1] + e1[2] * r[2];
    const heads away = 1.0f - (heads)((heads_int)dot & 0x7fffffff);
    const heads score = w * maximum(away, (heads){0} + PENALTY_FLOOR);
    return (heads)((heads_int)score & (away > least));
}

static Frame orthonormal(const float *e1, const float *towards, float share) {
    Frame f = {.share = share};
    const float dot = e1[0] * towards[0] + e1[1] * towards[1] + e1[2] * towards[2];
    float norm = 0;
    for (int k = 0; k < 3; k++) {
        f.axis[0][k] = e1[k];
        f.axis[1][k] = towards[k] - dot * e1[k];
        norm += f.axis[1][k] * f.axis[1][k];
    }
    norm = 1 / sqrtf(norm);
    for (int k = 0; k < 3; k++) f.axis[1][k] *= norm;
    for (int k = 0; k < 3; k++)
        f.axis[2][k] = e1[(k + 1) % 3] * f.axis[1][(k + 2) % 3] - e1[(k + 2) % 3] * f.axis[1][(k + 1) % 3];
    return f;
}

/* The images less than tie_width (in log weight) behind the best of one lane, with shares that add up to 1. */
#define GATHER(list, size, limit, lane, best, value_of_image)                                       \
    do {                                                                                            \
        float total = 0;                                                                            \
        size = 0;                                                                                   \
        for (int64_t n = 0; n < images && size < limit; n++) {                                      \
            const float value = value_of_image;                                                     \
            if (value > best * floor_ratio) {                                                       \
                list[size] = (Candidate){n, smooth_step(1 - logf(best / value) / layout->tie_width)}; \
                total += list[size++].share;                                                        \
            }                                                                                       \
        }                                                                                           \
        for (int64_t c = 0; c < size; c++) list[c].share /= total;                                  \
    } while (0)

/* Max frames of LANES heads from the weights of their images; see frames.py for the definition. The first image, the atom
 * itself, has no direction. `candidates` has room for 2 * images. Returns 0, or 1 if memory ran out. */
static int max_frames(Angles *angles, const heads *weight, int64_t images, const float *direction,
                      Candidate *candidates, const Layout *layout) {
    const float floor_ratio = expf(-layout->tie_width);
    heads best = {0};
    for (int64_t n = 1; n < images; n++) best = maximum(best, weight[n]);
    for (int lane = 0; lane < LANES; lane++) {
        FrameList *list = &angles->lane[lane];
        list->count = 0;
        if (best[lane] <= 0) continue;
        Candidate *first = candidates, *second = candidates + images;
        int64_t firsts, seconds;
        GATHER(first, firsts, images, lane, best[lane], (n ? weight[n][lane] : 0));
        for (int64_t a = 0; a < firsts; a++) {
            const float *r1 = direction + 3 * first[a].image;
            float least = COLLINEAR, best2 = 0;
            for (int attempt = 0; attempt < 2 && best2 <= 0; attempt++) {
                least = attempt ? EXACTLY_COLLINEAR : COLLINEAR;
                for (int64_t n = 1; n < images; n++) {
                    const float *r = direction + 3 * n;
                    const float away = 1 - fabsf(r1[0] * r[0] + r1[1] * r[1] + r1[2] * r[2]);
                    const float score = away > least ? weight[n][lane] * (away > PENALTY_FLOOR ? away : PENALTY_FLOOR) : 0;
                    best2 = score > best2 ? score : best2;
                }
            }
            if (best2 <= 0) {
                const float x = fabsf(r1[0]), y = fabsf(r1[1]), z = fabsf(r1[2]);
                const float towards[3] = {x <= y && x <= z, !(x <= y && x <= z) && y <= z, !(x <= y && x <= z) && !(y <= z)};
                const Frame frame = orthonormal(r1, towards, first[a].share);
                if (add_frame(list, &frame)) return 1;
                continue;
            }
            const heads e1[3] = {(heads){0} + r1[0], (heads){0} + r1[1], (heads){0} + r1[2]};
            GATHER(second, seconds, images, lane, best2,
                   (n ? second_score(weight[n], e1, direction + 3 * n, least)[lane] : 0));
            for (int64_t b = 0; b < seconds; b++) {
                const Frame frame = orthonormal(r1, direction + 3 * second[b].image, first[a].share * second[b].share);
                if (add_frame(list, &frame)) return 1;
            }
        }
    }
    return 0;
}

/* Lay the frames of the lanes side by side. */
static int arrange(Angles *angles) {
    int64_t most = 0;
    for (int lane = 0; lane < LANES; lane++)
        if (angles->lane[lane].count > most) most = angles->lane[lane].count;
    if (most > angles->capacity) {
        Frames *rounds = realloc(angles->rounds, most * sizeof(Frames));
        if (!rounds) return 1;
        angles->rounds = rounds;
        angles->capacity = most;
    }
    angles->count = most;
    memset(angles->rounds, 0, most * sizeof(Frames));
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t f = 0; f < angles->lane[lane].count; f++) {
            const Frame *frame = &angles->lane[lane].items[f];
            for (int k = 0; k < 9; k++) angles->rounds[f].axis[k / 3][k % 3][lane] = frame->axis[k / 3][k % 3];
            angles->rounds[f].share[lane] = frame->share;
        }
    return 0;
}

/* The frames of atom i, given or from the weights of its images. */
static int frames_of(Angles *angles, const heads *weight, int64_t images, int64_t i, Candidate *candidates,
                     const Layout *layout) {
    if (!layout->frame_ptr) {
        const float *direction = layout->direction + 3 * layout->ptr[i];
        if (max_frames(angles, weight, images, direction, candidates, layout)) return 1;
        return arrange(angles);
    }
    for (int lane = 0; lane < LANES; lane++) {
        angles->lane[lane].count = 0;
        for (int64_t f = layout->frame_ptr[i]; f < layout->frame_ptr[i + 1]; f++) {
            Frame frame;
            memcpy(&frame, layout->frames + 10 * f, sizeof(Frame));
            if (add_frame(&angles->lane[lane], &frame)) return 1;
        }
    }
    return arrange(angles);
}

/* Lagrange coefficients of the nodes around a point: node k - ORDER / 2 + 1 for k = 0 .. ORDER - 1, 0 <= x < 1. */
INLINE nodes lagrange(float x) {
    /* prod_{j != k} (x - x_j) / (x_k - x_j), by prefix and suffix products. */
    static const float per_denominator[ORDER] = {-1.0f / 5040, 1.0f / 720,  -1.0f / 240, 1.0f / 144,
                                                 -1.0f / 144,  1.0f / 240, -1.0f / 720, 1.0f / 5040};
    float below[ORDER], above[ORDER];
    below[0] = above[ORDER - 1] = 1;
    for (int k = 1; k < ORDER; k++) below[k] = below[k - 1] * (x - (float)(k - ORDER / 2));
    for (int k = ORDER - 2; k >= 0; k--) above[k] = above[k + 1] * (x - (float)(k + 2 - ORDER / 2));
    nodes c;
    for (int k = 0; k < ORDER; k++) c[k] = below[k] * above[k] * per_denominator[k];
    return c;
}

/* Node where the window around a cosine begins, and the place x within it. */
INLINE int64_t window_of(float cosine, float *x, const Layout *layout) {
    int64_t node = (int64_t)((cosine + 1) * layout->per_node);
    const int64_t last = layout->nodes - ORDER;
    node = node < 0 ? 0 : node > last ? last : node;
    /* One rounding, of a small number: per_node - node is exact. */
    *x = fmaf(cosine, layout->per_node, layout->per_node - (float)node);
    return node;
}

/* Add weight w of an image in direction r to the grids of all lanes. */
INLINE void spread(Angles *angles, heads w, const float *r, const Layout *layout) {
    for (int64_t f = 0; f < angles->count; f++) {
        const Frames *frames = &angles->rounds[f];
        const heads share = w * frames->share;
        for (int k = 0; k < 3; k++) {
            const heads cosine = frames->axis[k][0] * r[0] + frames->axis[k][1] * r[1] + frames->axis[k][2] * r[2];
            for (int lane = 0; lane < LANES; lane++) {
                float x;
                const int64_t node = window_of(cosine[lane], &x, layout);
                *(nodes *)(angles->grid + (lane * 3 + k) * layout->nodes + node) += share[lane] * lagrange(x);
            }
        }
    }
}

/* sum over frames and axes of the grids' values at the cosines of an image in direction r. */
INLINE heads gather(const Angles *angles, const float *r, const Layout *layout) {
    heads sum = {0};
    for (int64_t f = 0; f < angles->count; f++) {
        const Frames *frames = &angles->rounds[f];
        heads value = {0};
        for (int k = 0; k < 3; k++) {
            const heads cosine = frames->axis[k][0] * r[0] + frames->axis[k][1] * r[1] + frames->axis[k][2] * r[2];
            for (int lane = 0; lane < LANES; lane++) {
                float x, total = 0;
                const int64_t node = window_of(cosine[lane], &x, layout);
                const nodes product = *(const nodes *)(angles->grid + (lane * 3 + k) * layout->nodes + node) * lagrange(x);
                for (int m = 0; m < ORDER; m++) total += product[m];
                value[lane] += total;
            }
        }
        sum += frames->share * value;
    }
    return sum;
}

#endif
