/* Local frames (CrystalFramer) and sums over the cosines between an image's direction and their axes.
 *
 * The angular functions are smooth functions of one variable, the same for all images: series of a few dozen Chebyshev
 * polynomials. So the kernel sums those polynomials over an atom's images, two operations each for LANES heads, and the
 * caller multiplies the sums with the functions' coefficients: one small matrix product per atom instead of K
 * exponentials per image, head and axis. Images of little weight need few of them.
 */
#ifndef CRYSTALFORMERS_FRAMED_H
#define CRYSTALFORMERS_FRAMED_H

#include "heads.h"

/* Images in one vector of the sums over orders, and vectors whose recurrences run side by side: as many as hide the time of
 * one step, if there are registers for them. */
#ifdef __AVX512F__
#define ABREAST 2
#define VECTORS 8
#else
#define ABREAST 1
#define VECTORS 4
#endif
#define BLOCK (ABREAST * VECTORS)

typedef float images_heads __attribute__((vector_size(ABREAST * LANES * sizeof(float)), aligned(4)));

/* Components in which two axes may differ and still be one line: rounding of float32. */
#define ONE_LINE 5e-7f

/* As in frames.py; float32 cannot resolve less than the last. */
#define COLLINEAR 1e-4f
#define PENALTY_FLOOR 1e-5f
#define EXACTLY_COLLINEAR 1e-6f

typedef struct {
    float axis[3][3];
    float share[3];
} Frame;

/* A line that axes of frames lie on: psi is a sum over axes, so what counts is in how many frames it is e_1, e_2, e_3, one
 * way up or the other. At a centre of inversion the four frames of largest weight have three lines. */
typedef struct {
    float axis[3];
    float share[2][3]; /* of frames with this axis, and with its negative */
} Line;

typedef struct {
    Line *items;
    int64_t count, capacity;
} LineList;

/* One line for each of LANES heads; heads with fewer lines than others have share 0 in the later ones. T_l(-t) is T_l(t)
 * for even l and -T_l(t) for odd l, hence the share of the even orders is a sum and that of the odd ones a difference. */
typedef struct {
    heads axis[3];
    heads share[2][3];
} Lines;

typedef struct {
    LineList lane[LANES];
    Lines *rounds;
    int64_t count, capacity;
    heads *moments; /* (3, orders + 1): sums of T_l along each axis and the isotropic part; or coefficients of both */
    images_heads *line; /* (orders): the same along one line, for each of the images abreast */
    int64_t *enough; /* orders that each block of images needs */
} Angles;

typedef struct {
    int64_t image;
    float share;
} Candidate;

/* Axis k of a frame; it may lie on one of the first `lines`. */
static int add_axis(LineList *list, int64_t lines, const float *axis, int k, float share) {
    if (share == 0) return 0;
    for (int64_t n = 0; n < lines; n++) {
        Line *line = &list->items[n];
        const int down = line->axis[0] * axis[0] + line->axis[1] * axis[1] + line->axis[2] * axis[2] < 0;
        const float sign = down ? -1 : 1;
        float apart = 0;
        for (int x = 0; x < 3; x++) {
            const float gap = fabsf(line->axis[x] - sign * axis[x]);
            apart = gap > apart ? gap : apart;
        }
        if (apart < ONE_LINE) {
            line->share[down][k] += share;
            return 0;
        }
    }
    if (list->count == list->capacity) {
        const int64_t capacity = list->capacity ? 2 * list->capacity : 16;
        Line *items = realloc(list->items, capacity * sizeof(Line));
        if (!items) return 1;
        list->items = items;
        list->capacity = capacity;
    }
    Line *line = &list->items[list->count++];
    *line = (Line){.axis = {axis[0], axis[1], axis[2]}};
    line->share[0][k] = share;
    return 0;
}

/* Its own axes lie on three lines. */
static int add_frame(LineList *list, const Frame *frame) {
    const int64_t lines = list->count;
    for (int k = 0; k < 3; k++)
        if (add_axis(list, lines, frame->axis[k], k, frame->share[k])) return 1;
    return 0;
}

static void free_angles(Angles *angles) {
    for (int lane = 0; lane < LANES; lane++) free(angles->lane[lane].items);
    free(angles->rounds);
    free(angles->moments);
    free(angles->line);
    free(angles->enough);
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
static int complete_frames(LineList *list, Candidate first, const Race *second, int lane, const float *direction) {
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

/* Images from `n` on may still have a score above `least`, being no larger than their weight. Asked at every fourth. */
INLINE int goes_on(int64_t n, const heads *heaviest, heads least) { return n % 4 || any(heaviest[n] > least); }

/* The largest score of the second axis in each lane. */
INLINE heads best_second(const heads *weight, const heads *heaviest, int64_t images, const heads e1[3],
                         const float *direction, float least) {
    heads best = {0};
    for (int64_t n = 1; n < images && goes_on(n, heaviest, best); n++)
        best = maximum(best, second_score(weight[n], e1, direction + 3 * n, least));
    return best;
}

/* Max frames of LANES heads from the weights of their images; see frames.py for the definition. The first image, the atom
 * itself, has no direction. `candidates` has room for 2 * LANES * images, `heaviest` for the images. Returns 0, or 1 if
 * memory ran out. */
INLINE int max_frames(Angles *angles, const heads *weight, int64_t images, const float *direction,
                      Candidate *candidates, heads *heaviest, const Layout *layout) {
    const float floor_ratio = expf(-layout->tie_width), per_tie_width = 1 / layout->tie_width;
    /* The largest weight of each image and all that follow: where it is too small, no search need go on. */
    heads best = {0};
    for (int64_t n = images - 1; n > 0; n--) heaviest[n] = best = maximum(best, weight[n]);
    Race first = {.list = candidates, .room = images};
    for (int64_t n = 1; n < images && goes_on(n, heaviest, best * floor_ratio); n++)
        enter(&first, n, weight[n], best, best * floor_ratio, per_tie_width);
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
        Race second = {.list = candidates + LANES * images, .room = images};
        const heads best2 = best_second(weight, heaviest, images, e1, direction, COLLINEAR);
        for (int64_t n = 1; n < images && goes_on(n, heaviest, best2 * floor_ratio); n++) {
            const heads score = second_score(weight[n], e1, direction + 3 * n, COLLINEAR);
            enter(&second, n, score, best2, best2 * floor_ratio, per_tie_width);
        }
        const heads_int none = best2 <= 0;
        if (any(none)) {
            const heads last_resort = best_second(weight, heaviest, images, e1, direction, EXACTLY_COLLINEAR);
            const heads best3 = (heads)((heads_int)last_resort & none);
            for (int64_t n = 1; n < images; n++) {
                const heads score = second_score(weight[n], e1, direction + 3 * n, EXACTLY_COLLINEAR);
                enter(&second, n, (heads)((heads_int)score & none), best3, best3 * floor_ratio, per_tie_width);
            }
        }
        for (int lane = 0; lane < LANES; lane++)
            if (place < first.count[lane] &&
                complete_frames(&angles->lane[lane], entrant(&first, lane, place), &second, lane, direction))
                return 1;
    }
    return 0;
}

/* Lay the lines of the lanes side by side. */
static int arrange(Angles *angles) {
    int64_t most = 0;
    for (int lane = 0; lane < LANES; lane++)
        if (angles->lane[lane].count > most) most = angles->lane[lane].count;
    if (most > angles->capacity) {
        Lines *rounds = realloc(angles->rounds, most * sizeof(Lines));
        if (!rounds) return 1;
        angles->rounds = rounds;
        angles->capacity = most;
    }
    angles->count = most;
    if (most) memset(angles->rounds, 0, most * sizeof(Lines));
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t n = 0; n < angles->lane[lane].count; n++) {
            const Line *line = &angles->lane[lane].items[n];
            for (int k = 0; k < 3; k++) {
                angles->rounds[n].axis[k][lane] = line->axis[k];
                angles->rounds[n].share[0][k][lane] = line->share[0][k] + line->share[1][k];
                angles->rounds[n].share[1][k][lane] = line->share[0][k] - line->share[1][k];
            }
        }
    return 0;
}

/* The frames of the heads first_head .. of atom i, given or from the weights of its images. */
INLINE int frames_of(Angles *angles, const heads *weight, int64_t images, int64_t i, int64_t first_head,
                     Candidate *candidates, heads *heaviest, const Layout *layout) {
    if (!layout->frame_ptr) {
        const float *direction = layout->direction + 3 * layout->ptr[i];
        if (max_frames(angles, weight, images, direction, candidates, heaviest, layout)) return 1;
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

/* Numbers that stand for the angular encoding of an atom and head: for each axis the orders and the isotropic part. */
INLINE int64_t cosine_sums(const Layout *layout) { return layout->orders ? 3 * (layout->orders + 1) : 0; }

/* A number of each image abreast. */
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

INLINE int64_t blocks_of(int64_t images) { return (images + BLOCK - 2) / BLOCK; }

/* Where the series may end for each block of images but the first, the atom itself. Weights times `scale` have the sum 1;
 * what all blocks leave out together changes no sum over images of a function by more than the error of the series. The
 * images are sorted by distance, so neighbours need about as many orders. Weights behind the last image become 0. */
INLINE void count_orders(Angles *angles, heads *weight, heads scale, int64_t images, const Layout *layout) {
    const int64_t blocks = blocks_of(images);
    int64_t orders = layout->orders;
    for (int64_t n = images; n < blocks * BLOCK + 1; n++) weight[n] = (heads){0};
    for (int64_t block = 0; block < blocks; block++) {
        heads sum = {0};
        for (int64_t n = 0; n < BLOCK; n++) sum += weight[block * BLOCK + 1 + n];
        const float whole = largest(sum * scale) * (float)blocks;
        while (orders < layout->orders && whole * layout->tail[orders] > 1) orders += 2;
        while (orders > 2 && whole * layout->tail[orders - 2] <= 1) orders -= 2;
        angles->enough[block] = orders;
    }
}

/* moment[l] += sum of w T_l(t) over a block: T_0 = 1, T_1 = t, T_l = 2 t T_(l-1) - T_(l-2), with w as a factor of the
 * first two. */
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
INLINE int counts(const Lines *lines, int k) { return any((lines->share[0][k] != 0) | (lines->share[1][k] != 0)); }

/* moments[k][l] = sum of w T_l(t_k) over all images but the first, the atom itself, and over the frames, times `scale`.
 * Like `cosine_series`, after `count_orders`; reads directions to the end of a block. */
INLINE void cosine_moments(Angles *angles, const heads *weight, const float *direction, heads scale, int64_t images,
                           int64_t orders) {
    memset(angles->moments, 0, 3 * (orders + 1) * sizeof(heads));
    for (int64_t line = 0; line < angles->count; line++) {
        const Lines *lines = &angles->rounds[line];
        memset(angles->line, 0, orders * sizeof(images_heads));
        for (int64_t block = 0, n = 1; block < blocks_of(images); block++, n += BLOCK)
            add_moments(angles->line, lines->axis, weight + n, direction + 3 * n, angles->enough[block]);
        for (int k = 0; k < 3; k++) {
            if (!counts(lines, k)) continue;
            const heads share[2] = {scale * lines->share[0][k], scale * lines->share[1][k]};
            for (int64_t l = 0; l < orders; l++)
                angles->moments[k * (orders + 1) + l] += sum_abreast(angles->line[l]) * share[l % 2];
        }
    }
}

/* out[n] += the series at the cosines of all images but the first, summed over axes and frames. */
INLINE void cosine_series(heads *out, const Angles *angles, const float *direction, int64_t images,
                          int64_t orders) {
    for (int64_t line = 0; line < angles->count; line++) {
        const Lines *lines = &angles->rounds[line];
        memset(angles->line, 0, orders * sizeof(images_heads));
        for (int k = 0; k < 3; k++) {
            if (!counts(lines, k)) continue;
            for (int64_t l = 0; l < orders; l++)
                angles->line[l] += repeated(angles->moments[k * (orders + 1) + l] * lines->share[l % 2][k]);
        }
        for (int64_t block = 0, n = 1; block < blocks_of(images); block++, n += BLOCK)
            add_series(out + n, angles->line, lines->axis, direction + 3 * n, angles->enough[block]);
    }
}

/* The part of the images' whole weight `total` that counts with the mean over all axes. */
INLINE void isotropic_moments(Angles *angles, heads total, int64_t row, const Layout *layout) {
    if (!layout->isotropic) return;
    total *= *(const heads *)(layout->isotropic + row);
    for (int k = 0; k < 3; k++) angles->moments[k * (layout->orders + 1) + layout->orders] = total;
}

/* What every image gets from that part of a series. */
INLINE heads isotropic_series(const Angles *angles, int64_t row, const Layout *layout) {
    heads sum = {0};
    if (!layout->isotropic) return sum;
    for (int k = 0; k < 3; k++) sum += angles->moments[k * (layout->orders + 1) + layout->orders];
    return sum * *(const heads *)(layout->isotropic + row);
}

#endif
