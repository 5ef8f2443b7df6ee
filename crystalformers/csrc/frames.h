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

typedef struct {
    float axis[3][3];
    float share[3];
} Frame;

/* A line that axes of frames lie on. psi is a sum over axes, so all that matters is the share of frames in which the
 * line is e_1, e_2 or e_3, in one direction or the other. At a centre of inversion the four frames of largest weight
 * have three lines. */
typedef struct {
    float axis[3];
    float share[2][3]; /* of frames with this axis, and with its negative */
} Line;

typedef struct {
    Line *items;
    int64_t count, capacity;
} LineList;

/* One line for each of LANES heads; a head with fewer lines than others has share 0 in the later ones. T_l(-t) is
 * T_l(t) for even l and -T_l(t) for odd l, hence the share of the even orders, the first, is a sum and that of the
 * odd ones a difference. */
typedef struct {
    heads axis[3];
    heads share[2][3];
} Lines;

/* The lines of each head, and the same side by side. */
typedef struct {
    LineList lane[LANES];
    Lines *rounds;
    int64_t count, capacity;
} Frames;

typedef struct {
    int64_t image;
    float share;
} Candidate;

/* Add axis k of a frame, which may lie on one of the first `lines` lines. */
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

/* Add a frame. Its own axes lie on three different lines. */
static int add_frame(LineList *list, const Frame *frame) {
    const int64_t lines = list->count;
    for (int k = 0; k < 3; k++)
        if (add_axis(list, lines, frame->axis[k], k, frame->share[k])) return 1;
    return 0;
}

static void free_frames(Frames *frames) {
    for (int lane = 0; lane < LANES; lane++) free(frames->lane[lane].items);
    free(frames->rounds);
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

/* Score of an image as second axis: w (1 - |cos|), zero if it is too near the line of the first. */
INLINE heads second_score(heads w, const heads e1[3], const float *r, float least) {
    const heads dot = e1[0] * r[0] + e1[1] * r[1] + e1[2] * r[2];
    const heads away = 1.0f - (heads)((heads_int)dot & 0x7fffffff);
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

/* Frames of one lane with a given first axis. Where all images lie on its line, any second axis serves. */
static int complete_frames(LineList *list, Candidate first, const Candidates *second, int lane,
                           const float *direction) {
    const float *e1 = direction + 3 * first.image;
    if (!second->count[lane]) {
        const float size[3] = {fabsf(e1[0]), fabsf(e1[1]), fabsf(e1[2])};
        const int least = size[0] <= size[1] ? (size[0] <= size[2] ? 0 : 2) : (size[1] <= size[2] ? 1 : 2);
        const float towards[3] = {least == 0, least == 1, least == 2};
        const Frame frame = orthonormal(e1, towards, first.share);
        return add_frame(list, &frame);
    }
    for (int64_t place = 0; place < second->count[lane]; place++) {
        const Candidate candidate = candidate_of(second, lane, place);
        const Frame frame = orthonormal(e1, direction + 3 * candidate.image, first.share * candidate.share);
        if (add_frame(list, &frame)) return 1;
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
    if (most) memset(frames->rounds, 0, most * sizeof(Lines));
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t n = 0; n < frames->lane[lane].count; n++) {
            const Line *line = &frames->lane[lane].items[n];
            for (int k = 0; k < 3; k++) {
                frames->rounds[n].axis[k][lane] = line->axis[k];
                frames->rounds[n].share[0][k][lane] = line->share[0][k] + line->share[1][k];
                frames->rounds[n].share[1][k][lane] = line->share[0][k] - line->share[1][k];
            }
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
            Frame frame;
            memcpy(&frame, input->frames + 12 * f, sizeof(Frame));
            if (add_frame(&frames->lane[lane], &frame)) return 1;
        }
    }
    return arrange(frames);
}

#endif
