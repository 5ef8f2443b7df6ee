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

#define ORDER 8 /* also LANES: windows of nodes are transposed against lanes */

/* As in frames.py; float32 cannot resolve less than the last. */
#define COLLINEAR 1e-4f
#define PENALTY_FLOOR 1e-5f
#define EXACTLY_COLLINEAR 1e-6f

typedef struct {
    float axis[3][3];
    float share[3];
} Frame;

typedef struct {
    Frame *items;
    int64_t count, capacity;
} FrameList;

/* One frame for each of LANES heads; heads with fewer frames than others have share 0 in the later ones. */
typedef struct {
    heads axis[3][3];
    heads share[3];
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

/* The candidates of each lane; `list` has room for all images of every lane. */
typedef struct {
    Candidate *list;
    int64_t room, count[LANES];
    float total[LANES];
} Race;

/* Enter an image of the given scores in the race of the lanes where it is less than tie_width (in log score) behind. */
INLINE void enter(Race *race, int64_t image, heads score, heads best, heads least, float per_tie_width) {
    const heads_int near = score > least;
    if (!any(near)) return;
    for (int lane = 0; lane < LANES; lane++)
        if (near[lane]) {
            const float share = smooth_step(1 - logf(best[lane] / score[lane]) * per_tie_width);
            race->list[lane * race->room + race->count[lane]++] = (Candidate){image, share};
            race->total[lane] += share;
        }
}

INLINE Candidate entrant(const Race *race, int lane, int64_t place) {
    Candidate candidate = race->list[lane * race->room + place];
    candidate.share /= race->total[lane];
    return candidate;
}

static Frame orthonormal(const float *e1, const float *towards, float share) {
    Frame f = {.share = {share, share, share}};
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

/* Frames of one lane whose first axis is decided. Where all images lie on its line, any second axis serves. */
static int complete_frames(FrameList *list, Candidate first, const Race *second, int lane, const float *direction) {
    const float *e1 = direction + 3 * first.image;
    if (!second->count[lane]) {
        const float size[3] = {fabsf(e1[0]), fabsf(e1[1]), fabsf(e1[2])};
        const int least = size[0] <= size[1] ? (size[0] <= size[2] ? 0 : 2) : (size[1] <= size[2] ? 1 : 2);
        const float towards[3] = {least == 0, least == 1, least == 2};
        const Frame frame = orthonormal(e1, towards, first.share);
        return add_frame(list, &frame);
    }
    for (int64_t place = 0; place < second->count[lane]; place++) {
        const Candidate candidate = entrant(second, lane, place);
        const Frame frame = orthonormal(e1, direction + 3 * candidate.image, first.share * candidate.share);
        if (add_frame(list, &frame)) return 1;
    }
    return 0;
}

/* Max frames of LANES heads from the weights of their images; see frames.py for the definition. The first image, the atom
 * itself, has no direction. `candidates` has room for 2 * LANES * images. Returns 0, or 1 if memory ran out. */
INLINE int max_frames(Angles *angles, const heads *weight, int64_t images, const float *direction,
                      Candidate *candidates, const Layout *layout) {
    const float floor_ratio = expf(-layout->tie_width), per_tie_width = 1 / layout->tie_width;
    Race first = {.list = candidates, .room = images};
    heads best = {0};
    for (int64_t n = 1; n < images; n++) best = maximum(best, weight[n]);
    for (int64_t n = 1; n < images; n++) enter(&first, n, weight[n], best, best * floor_ratio, per_tie_width);
    int64_t most = 0;
    for (int lane = 0; lane < LANES; lane++) {
        angles->lane[lane].count = 0;
        if (first.count[lane] > most) most = first.count[lane];
    }
    for (int64_t place = 0; place < most; place++) {
        /* The first axis of every lane that still has a candidate; of the others any, which is not used. */
        heads e1[3] = {{0}};
        for (int lane = 0; lane < LANES; lane++)
            if (place < first.count[lane])
                for (int k = 0; k < 3; k++)
                    e1[k][lane] = direction[3 * first.list[lane * images + place].image + k];
        heads best2 = {0}, last_resort = {0};
        for (int64_t n = 1; n < images; n++) {
            best2 = maximum(best2, second_score(weight[n], e1, direction + 3 * n, COLLINEAR));
            last_resort = maximum(last_resort, second_score(weight[n], e1, direction + 3 * n, EXACTLY_COLLINEAR));
        }
        Race second = {.list = candidates + LANES * images, .room = images};
        const heads_int none = best2 <= 0;
        for (int64_t n = 1; n < images; n++) {
            const heads score = second_score(weight[n], e1, direction + 3 * n, COLLINEAR);
            enter(&second, n, score, best2, best2 * floor_ratio, per_tie_width);
        }
        if (any(none & (last_resort > 0))) {
            const heads best3 = (heads)((heads_int)last_resort & none);
            for (int64_t n = 1; n < images; n++) {
                const heads any_score = second_score(weight[n], e1, direction + 3 * n, EXACTLY_COLLINEAR);
                enter(&second, n, (heads)((heads_int)any_score & none), best3, best3 * floor_ratio, per_tie_width);
            }
        }
        for (int lane = 0; lane < LANES; lane++)
            if (place < first.count[lane] &&
                complete_frames(&angles->lane[lane], entrant(&first, lane, place), &second, lane, direction))
                return 1;
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
    if (most) memset(angles->rounds, 0, most * sizeof(Frames));
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t f = 0; f < angles->lane[lane].count; f++) {
            const Frame *frame = &angles->lane[lane].items[f];
            for (int k = 0; k < 9; k++) angles->rounds[f].axis[k / 3][k % 3][lane] = frame->axis[k / 3][k % 3];
            for (int k = 0; k < 3; k++) angles->rounds[f].share[k][lane] = frame->share[k];
        }
    return 0;
}

/* The frames of the heads first_head .. of atom i, given or from the weights of its images. */
INLINE int frames_of(Angles *angles, const heads *weight, int64_t images, int64_t i, int64_t first_head,
                     Candidate *candidates, const Layout *layout) {
    if (!layout->frame_ptr) {
        const float *direction = layout->direction + 3 * layout->ptr[i];
        if (max_frames(angles, weight, images, direction, candidates, layout)) return 1;
        return arrange(angles);
    }
    for (int lane = 0; lane < LANES; lane++) {
        const int64_t row = i * layout->head_groups * LANES + first_head + lane;
        angles->lane[lane].count = 0;
        for (int64_t f = layout->frame_ptr[row]; f < layout->frame_ptr[row + 1]; f++) {
            Frame frame;
            memcpy(&frame, layout->frames + 12 * f, sizeof(Frame));
            if (add_frame(&angles->lane[lane], &frame)) return 1;
        }
    }
    return arrange(angles);
}

/* Lagrange coefficients at places 0 <= x < 1 for LANES lanes: those of node k - ORDER / 2 + 1 in c[k]. */
INLINE void lagrange(heads c[ORDER], heads x) {
    /* prod_{j != k} (x - x_j) / (x_k - x_j), by prefix and suffix products. */
    static const float per_denominator[ORDER] = {-1.0f / 5040, 1.0f / 720,  -1.0f / 240, 1.0f / 144,
                                                 -1.0f / 144,  1.0f / 240, -1.0f / 720, 1.0f / 5040};
    heads above[ORDER], below = {0};
    above[ORDER - 1] = below = below + 1.0f;
    for (int k = ORDER - 2; k >= 0; k--) above[k] = above[k + 1] * (x - (float)(k + 2 - ORDER / 2));
    for (int k = 0; k < ORDER; k++) {
        c[k] = below * above[k] * per_denominator[k];
        below *= x - (float)(k + 1 - ORDER / 2);
    }
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

/* Nodes where the windows around the cosines of LANES lanes begin, and the coefficients of the nodes in them. */
INLINE heads_int window_of(heads cosine, heads c[ORDER], const Layout *layout) {
    const int32_t last = (int32_t)layout->nodes - ORDER;
    heads_int node = __builtin_convertvector((cosine + 1.0f) * layout->per_node, heads_int);
    node &= node > 0;
    const heads_int inside = node < last;
    node = (node & inside) | (last & ~inside);
    /* One rounding, of a small number: per_node - node is exact. */
    lagrange(c, cosine * layout->per_node + (layout->per_node - __builtin_convertvector(node, heads)));
    return node;
}

INLINE heads cosine_of(const Frames *frames, int axis, const float *r) {
    return frames->axis[axis][0] * r[0] + frames->axis[axis][1] * r[1] + frames->axis[axis][2] * r[2];
}

/* Add weight w of an image in direction r to the grids of all lanes. */
INLINE void spread(Angles *angles, heads w, const float *r, const Layout *layout) {
    for (int64_t f = 0; f < angles->count; f++) {
        const Frames *frames = &angles->rounds[f];
        for (int axis = 0; axis < 3; axis++) {
            heads c[ORDER];
            const heads_int node = window_of(cosine_of(frames, axis, r), c, layout);
            const heads share = w * frames->share[axis];
            for (int k = 0; k < ORDER; k++) c[k] *= share;
            transpose(c);
            for (int lane = 0; lane < LANES; lane++)
                *(heads *)(angles->grid + (lane * 3 + axis) * layout->nodes + node[lane]) += c[lane];
        }
    }
}

/* Sum over frames and axes of the grids' values at the cosines of an image in direction r. */
INLINE heads gather(const Angles *angles, const float *r, const Layout *layout) {
    heads sum = {0};
    for (int64_t f = 0; f < angles->count; f++) {
        const Frames *frames = &angles->rounds[f];
        for (int axis = 0; axis < 3; axis++) {
            heads c[ORDER], g[LANES], value = {0};
            const heads_int node = window_of(cosine_of(frames, axis, r), c, layout);
            for (int lane = 0; lane < LANES; lane++)
                g[lane] = *(const heads *)(angles->grid + (lane * 3 + axis) * layout->nodes + node[lane]);
            transpose(g);
            for (int k = 0; k < ORDER; k++) value += c[k] * g[k];
            sum += frames->share[axis] * value;
        }
    }
    return sum;
}

/* Add the mean over all axes of the images' whole weight `total`, where a share of it is given. */
INLINE void spread_isotropic(Angles *angles, heads total, int64_t row, const Layout *layout) {
    if (!layout->isotropic) return;
    total *= *(const heads *)(layout->isotropic + row);
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t node = 0; node < 3 * layout->nodes; node++)
            angles->grid[lane * 3 * layout->nodes + node] += total[lane] * layout->mean[node % layout->nodes];
}

/* The same for the grids' values: what every image gets. */
INLINE heads gather_isotropic(const Angles *angles, int64_t row, const Layout *layout) {
    heads sum = {0};
    if (!layout->isotropic) return sum;
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t node = 0; node < 3 * layout->nodes; node++)
            sum[lane] += angles->grid[lane * 3 * layout->nodes + node] * layout->mean[node % layout->nodes];
    return sum * *(const heads *)(layout->isotropic + row);
}

#endif
