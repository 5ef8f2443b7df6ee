/* Local frames (CrystalFramer) of an atom and LANES heads: those given, or max frames, and the lines that their axes
 * lie on. attention/frames/local.py has the definition. */
#ifndef CRYSTALFORMERS_FRAMES_H
#define CRYSTALFORMERS_FRAMES_H

#include "heads.h"

/* How far two axes on one line may differ in a component: rounding of float32. */
#define ONE_LINE 5e-7f

/* As in attention/frames/local.py; float32 cannot resolve less than the last. */
#define COLLINEAR 0.9999
#define PENALTY_FLOOR 1e-5f
#define EXACTLY_COLLINEAR 1e-6f

/* Lines that axes of frames lie on, LANES side by side. psi is a sum over axes, so all that matters of a line is the
 * share of frames in which it is e_1, e_2 or e_3, in one direction or the other. At a centre of inversion the four
 * frames of largest weight have three lines.
 *
 * T_l(-t) is T_l(t) for even l and -T_l(t) for odd l, hence the share of the even orders, the first, is the sum of both
 * directions and that of the odd ones the difference. */
typedef struct {
    heads axis[3];
    heads share[2][3];
} Lines;

#define PARTS ((int)(sizeof(Lines) / sizeof(heads)))

/* The lines of one head, LANES in a group; what no line fills is 0. */
typedef struct {
    Lines *groups;
    int64_t count, capacity;
} LineList;

/* The lines of each head, and the same with the heads side by side: a head with fewer lines than others has share 0 in
 * the later ones. */
typedef struct {
    LineList lane[LANES];
    Lines *rounds;
    int64_t count, capacity;
} Frames;

typedef struct {
    int64_t image;
    float share;
} Candidate;

INLINE int any(heads_int mask) {
    int32_t bits = 0;
    for (int lane = 0; lane < LANES; lane++) bits |= mask[lane];
    return bits != 0;
}

INLINE heads absolute(heads a) { return (heads)((heads_int)a & 0x7fffffff); }

INLINE int64_t groups_of(int64_t lines) { return (lines + LANES - 1) / LANES; }

/* Add axis k of frames with this share, which may lie on a line that is there. */
static int add_axis(LineList *list, const float *axis, int k, float share) {
    const heads_int place = {0, 1, 2, 3, 4, 5, 6, 7};
    if (share == 0) return 0;
    for (int64_t g = 0; g < groups_of(list->count); g++) {
        Lines *lines = &list->groups[g];
        const heads_int down = lines->axis[0] * axis[0] + lines->axis[1] * axis[1] + lines->axis[2] * axis[2] < 0;
        heads apart = {0};
        for (int x = 0; x < 3; x++) {
            const heads along = (heads)((heads_int)lines->axis[x] ^ (down & INT32_MIN));
            apart = maximum(apart, absolute(along - axis[x]));
        }
        const heads_int same = (apart < ONE_LINE) & (place < (int32_t)(list->count - g * LANES));
        if (!any(same)) continue;
        int n = 0;
        while (!same[n]) n++;
        lines->share[0][k][n] += share;
        lines->share[1][k][n] += down[n] ? -share : share;
        return 0;
    }
    const int64_t g = list->count / LANES, n = list->count % LANES;
    if (g == list->capacity) {
        const int64_t capacity = g ? 2 * g : 2;
        Lines *groups = realloc(list->groups, capacity * sizeof(Lines));
        if (!groups) return 1;
        list->groups = groups;
        list->capacity = capacity;
    }
    Lines *lines = &list->groups[g];
    if (!n) *lines = (Lines){{{0}}};
    for (int x = 0; x < 3; x++) lines->axis[x][n] = axis[x];
    lines->share[0][k][n] = lines->share[1][k][n] = share;
    list->count++;
    return 0;
}

static void free_frames(Frames *frames) {
    for (int lane = 0; lane < LANES; lane++) free(frames->lane[lane].groups);
    free(frames->rounds);
}

INLINE float smooth_step(float x) {
    x = x < 0 ? 0 : x > 1 ? 1 : x;
    return x * x * x * (10 + x * (6 * x - 15));
}

/* Score of an image as second axis: w (1 - |cos|), zero if it is too near the line of the first. */
INLINE heads second_score(heads w, const heads e1[3], const float *r, float least) {
    const heads dot = e1[0] * r[0] + e1[1] * r[1] + e1[2] * r[2];
    const heads away = 1.0f - absolute(dot);
    const heads score = w * maximum(away, (heads){0} + PENALTY_FLOOR);
    return (heads)((heads_int)score & (away > least));
}

/* The candidates of each lane and the sum of their shares; `list` has room for all images of every lane. */
typedef struct {
    Candidate *list;
    int64_t capacity, count[LANES];
    float total[LANES];
} Candidates;

/* Add an image to the candidates of the lanes where it is less than tie_width (in log score) behind the best. */
INLINE void add_candidate(Candidates *of, int64_t image, heads score, heads best, heads least, float per_tie_width) {
    const heads_int near = score > least;
    if (!any(near)) return;
    for (int lane = 0; lane < LANES; lane++)
        if (near[lane]) {
            const float share = smooth_step(1 - logf(best[lane] / score[lane]) * per_tie_width);
            of->list[lane * of->capacity + of->count[lane]++] = (Candidate){image, share};
            of->total[lane] += share;
        }
}

/* A candidate of a lane; the shares of all add up to 1. */
INLINE Candidate candidate_of(const Candidates *of, int lane, int64_t place) {
    Candidate candidate = of->list[lane * of->capacity + place];
    candidate.share /= of->total[lane];
    return candidate;
}

/* The second and third axes of a frame: those at right angles to the first, the second as near to `towards` as can be. */
static int add_others(LineList *list, const float *e1, const float *towards, float share) {
    const float dot = e1[0] * towards[0] + e1[1] * towards[1] + e1[2] * towards[2];
    float e2[3], e3[3], norm = 0;
    for (int x = 0; x < 3; x++) {
        e2[x] = towards[x] - dot * e1[x];
        norm += e2[x] * e2[x];
    }
    norm = 1 / sqrtf(norm);
    for (int x = 0; x < 3; x++) e2[x] *= norm;
    for (int x = 0; x < 3; x++) e3[x] = e1[(x + 1) % 3] * e2[(x + 2) % 3] - e1[(x + 2) % 3] * e2[(x + 1) % 3];
    return add_axis(list, e2, 1, share) || add_axis(list, e3, 2, share);
}

/* Frames of one lane with a given first axis. Where all images lie on its line, any second axis serves. */
static int complete_frames(LineList *list, Candidate first, const Candidates *second, int lane,
                           const float *direction) {
    const float *e1 = direction + 3 * first.image;
    if (add_axis(list, e1, 0, first.share)) return 1;
    if (!second->count[lane]) {
        const float size[3] = {fabsf(e1[0]), fabsf(e1[1]), fabsf(e1[2])};
        const int least = size[0] <= size[1] ? (size[0] <= size[2] ? 0 : 2) : (size[1] <= size[2] ? 1 : 2);
        const float towards[3] = {least == 0, least == 1, least == 2};
        return add_others(list, e1, towards, first.share);
    }
    for (int64_t place = 0; place < second->count[lane]; place++) {
        const Candidate candidate = candidate_of(second, lane, place);
        if (add_others(list, e1, direction + 3 * candidate.image, first.share * candidate.share)) return 1;
    }
    return 0;
}

/* Whether an image from `n` on may have a score above `least`: none exceeds its weight. Compared at every fourth image. */
INLINE int may_exceed(int64_t n, const heads *heaviest, heads least) { return n % 4 || any(heaviest[n] > least); }

/* The largest score of the second axis in each lane. */
INLINE heads best_second(const heads *weight, const heads *heaviest, int64_t around, int64_t images, const heads e1[3],
                         const float *direction, float least) {
    heads best = {0};
    for (int64_t n = around; n < images && may_exceed(n, heaviest, best); n++)
        best = maximum(best, second_score(weight[n], e1, direction + 3 * n, least));
    return best;
}

/* Max frames of LANES heads from the weights of their images; those before `around` have no direction. `candidates`
 * has room for 2 * LANES * images, `heaviest` for the images. Returns 0, or 1 if memory ran out. */
INLINE int max_frames(Frames *frames, const heads *weight, int64_t around, int64_t images, const float *direction,
                      Candidate *candidates, heads *heaviest, const KernelInput *input) {
    const float floor_ratio = expf(-input->tie_width), per_tie_width = 1 / input->tie_width;
    /* The largest weight of each image and all that follow: where it is too small, no search need go on. */
    heads best = {0};
    for (int64_t n = images - 1; n >= around; n--) heaviest[n] = best = maximum(best, weight[n]);
    Candidates first = {.list = candidates, .capacity = images};
    for (int64_t n = around; n < images && may_exceed(n, heaviest, best * floor_ratio); n++)
        add_candidate(&first, n, weight[n], best, best * floor_ratio, per_tie_width);
    int64_t most = 0;
    for (int lane = 0; lane < LANES; lane++) {
        frames->lane[lane].count = 0;
        if (first.count[lane] > most) most = first.count[lane];
    }
    for (int64_t place = 0; place < most; place++) {
        /* The first axis of every lane that has a candidate left; zero, and not used, in the others. */
        heads e1[3] = {{0}};
        for (int lane = 0; lane < LANES; lane++)
            if (place < first.count[lane])
                for (int k = 0; k < 3; k++)
                    e1[k][lane] = direction[3 * first.list[lane * images + place].image + k];
        Candidates second = {.list = candidates + LANES * images, .capacity = images};
        const heads best2 = best_second(weight, heaviest, around, images, e1, direction, 1 - COLLINEAR);
        for (int64_t n = around; n < images && may_exceed(n, heaviest, best2 * floor_ratio); n++) {
            const heads score = second_score(weight[n], e1, direction + 3 * n, 1 - COLLINEAR);
            add_candidate(&second, n, score, best2, best2 * floor_ratio, per_tie_width);
        }
        const heads_int none = best2 <= 0;
        if (any(none)) {
            const heads last_resort =
                best_second(weight, heaviest, around, images, e1, direction, EXACTLY_COLLINEAR);
            const heads best3 = (heads)((heads_int)last_resort & none);
            for (int64_t n = around; n < images; n++) {
                const heads score = second_score(weight[n], e1, direction + 3 * n, EXACTLY_COLLINEAR);
                add_candidate(&second, n, (heads)((heads_int)score & none), best3, best3 * floor_ratio, per_tie_width);
            }
        }
        for (int lane = 0; lane < LANES; lane++)
            if (place < first.count[lane] &&
                complete_frames(&frames->lane[lane], candidate_of(&first, lane, place), &second, lane, direction))
                return 1;
    }
    return 0;
}

/* Lay the lines of the lanes side by side. */
static int arrange(Frames *frames) {
    int64_t most = 0;
    for (int lane = 0; lane < LANES; lane++)
        if (frames->lane[lane].count > most) most = frames->lane[lane].count;
    if (most > frames->capacity) {
        Lines *rounds = realloc(frames->rounds, most * sizeof(Lines));
        if (!rounds) return 1;
        frames->rounds = rounds;
        frames->capacity = most;
    }
    frames->count = most;
    for (int64_t g = 0; g < groups_of(most); g++)
        for (int part = 0; part < PARTS; part++) {
            heads block[LANES];
            for (int lane = 0; lane < LANES; lane++) {
                const LineList *list = &frames->lane[lane];
                block[lane] = g < groups_of(list->count) ? ((const heads *)&list->groups[g])[part] : (heads){0};
            }
            transpose(block);
            for (int64_t n = 0; n < LANES && g * LANES + n < most; n++)
                ((heads *)&frames->rounds[g * LANES + n])[part] = block[n];
        }
    return 0;
}

/* The frames of the heads first_head .. of atom i, given or from the weights of its images. */
INLINE int frames_of(Frames *frames, const heads *weight, int64_t around, int64_t images, int64_t i, int64_t first_head,
                     Candidate *candidates, heads *heaviest, const KernelInput *input) {
    if (!input->frame_ptr) {
        const float *direction = input->direction + 3 * input->ptr[i];
        if (max_frames(frames, weight, around, images, direction, candidates, heaviest, input)) return 1;
        return arrange(frames);
    }
    for (int lane = 0; lane < LANES; lane++) {
        const int64_t row = i * input->head_groups * LANES + first_head + lane;
        frames->lane[lane].count = 0;
        for (int64_t f = input->frame_ptr[row]; f < input->frame_ptr[row + 1]; f++) {
            const float *frame = input->frames + 12 * f;
            for (int k = 0; k < 3; k++)
                if (add_axis(&frames->lane[lane], frame + 3 * k, k, frame[9 + k])) return 1;
        }
    }
    return arrange(frames);
}

#endif
