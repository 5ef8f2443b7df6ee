/* Every periodic image within a radius of every atom, sorted by distance; images/enumeration.py calls it.
 *
 * Rows (target atoms) are independent: the caller first has the images of all rows counted, and then lists of that size
 * filled.
 *
 * Shapes: A atoms, E images, P pairs.
 */
#include "image_search.h"
#include "table.h"

/* As in images/batch.py. */
#define ONE_SPOT 1e-6

static int widen(Search *s, int64_t count) {
    if (count < s->capacity) return 0;
    s->capacity = count + count / 2 + 64;
    return resize((void **)&s->distance, s->capacity * 8) || resize((void **)&s->sorted, s->capacity * 8) ||
           resize((void **)&s->bucket, s->capacity * 4) || resize((void **)&s->order, s->capacity * 4) ||
           resize((void **)&s->start, BUCKETS_PER_IMAGE * s->capacity * 4);
}

/* Sort the images found into `order`. Volume is uniform in d^3, so buckets in d^3 hold less than one image each; a
 * final insertion sort orders what shares a bucket. Equal distances stay as they were found. */
static int sort_images(Search *s, double radius) {
    const int64_t count = s->images.count;
    if (widen(s, count)) return 1;
    const int64_t buckets = BUCKETS_PER_IMAGE * count;
    const double scale = (double)buckets / (radius * radius * radius) * (1 - 1e-9), last = (double)(buckets - 1);
    const double *squared = s->images.z;
    double *distance = s->distance, *sorted = s->sorted;
    int32_t *start = s->start, *bucket = s->bucket, *order = s->order;
    INDEPENDENT
    for (int64_t e = 0; e < count; e++) {
        distance[e] = sqrt(squared[e]);
        const double place = squared[e] * distance[e] * scale;
        bucket[e] = (int32_t)(place < last ? place : last); /* the last one also for NaN */
    }
    memset(start, 0, buckets * sizeof(int32_t));
    for (int64_t e = 0; e < count; e++) start[bucket[e]]++;
    for (int64_t b = 0, before = 0; b < buckets; b++) {
        const int32_t here = start[b];
        start[b] = (int32_t)before;
        before += here;
    }
    for (int64_t e = 0; e < count; e++) {
        const int32_t place = start[bucket[e]]++;
        order[place] = (int32_t)e;
        sorted[place] = squared[e];
    }
    for (int64_t e = 1; e < count; e++) {
        const double value = sorted[e];
        if (sorted[e - 1] <= value) continue;
        const int32_t image = order[e];
        int64_t place = e;
        for (; place > 0 && sorted[place - 1] > value; place--) {
            sorted[place] = sorted[place - 1];
            order[place] = order[place - 1];
        }
        sorted[place] = value;
        order[place] = image;
    }
    return 0;
}

static int prepare(Search *s, const BinnedAtoms *in, int64_t first, int64_t last) {
    int64_t largest = 0;
    for (int64_t c = in->crystal[first]; c <= in->crystal[last - 1]; c++)
        if (in->ptr[c + 1] - in->ptr[c] > largest) largest = in->ptr[c + 1] - in->ptr[c];
    s->near = malloc(largest * sizeof(int32_t));
    s->seen = calloc((largest + 63) / 64, sizeof(uint64_t));
    return !s->near || !s->seen;
}

/* Count the images and pairs of the target atoms first .. last - 1. Returns 0, or 1 if memory ran out. */
int images_count(int64_t first, int64_t last, const BinnedAtoms *in, void *const *arrays) {
    int64_t *images = arrays[0], *pairs = arrays[1];
    Search s = {0};
    int failure = prepare(&s, in, first, last);
    for (int64_t i = first; i < last && !failure; i++) {
        failure = find_lines(&s, in, i);
        images[i] = pairs[i] = 0;
        int32_t pair = -1;
        for (int64_t k = 0; k < s.lines.count && !failure; k++) {
            const int32_t atom = s.planes.parent[s.lines.parent[k]];
            if (s.lines.many[k] > 0 && atom != pair) pairs[i]++, pair = atom;
            images[i] += (int64_t)s.lines.many[k];
        }
    }
    release(&s);
    return failure;
}

typedef struct {
    const int64_t *ptr, *pair_ptr;    /* (A + 1,) starts of the rows */
    double *distance;                 /* (E,) */
    int32_t *pair;                    /* (E,) */
    int64_t *pair_target, *pair_source; /* (P,) */
    int32_t *shift;                   /* (E, 3) or NULL */
    double *vectors;                  /* (E, 3), p_j + n L - p_i, or NULL */
} ImageLists;

/* Number the pairs of atom i, write down their atoms, and tell each line its pair. */
static void write_pairs(Search *s, int64_t i, const ImageLists *lists) {
    int32_t atom = -1;
    int64_t pair = lists->pair_ptr[i] - 1;
    for (int64_t k = 0; k < s->lines.count; k++) {
        const int32_t own = s->planes.parent[s->lines.parent[k]];
        if (s->lines.many[k] > 0 && own != atom) {
            atom = own;
            pair++;
            lists->pair_target[pair] = i;
            lists->pair_source[pair] = s->near[atom];
        }
        s->lines.pair[k] = (int32_t)pair;
    }
}

/* Write down lattice translations and vectors of the images of atom i, in order. */
static void write_directions(const Search *s, const BinnedAtoms *in, int64_t i, const ImageLists *lists) {
    const double *L = in->lattice + 9 * in->crystal[i], *own = in->positions + 3 * i;
    for (int64_t e = 0; e < s->images.count; e++) {
        const int32_t image = s->order[e], line = s->images.parent[image], plane = s->lines.parent[line];
        const double n[3] = {s->images.n[image], s->lines.n[line], s->planes.n[plane]};
        const double *other = in->positions + 3 * (int64_t)s->near[s->planes.parent[plane]];
        const int64_t place = 3 * (lists->ptr[i] + e);
        for (int x = 0; x < 3; x++) {
            lists->shift[place + x] = (int32_t)n[x];
            const double vector = other[x] + (n[0] * L[x] + n[1] * L[3 + x] + n[2] * L[6 + x]) - own[x];
            lists->vectors[place + x] = s->distance[image] > ONE_SPOT ? vector : 0;
        }
    }
}

/* Fill the rows first .. last - 1 of lists of the size that was counted. Returns 0, 1 if memory ran out, or 2 if
 * another number of images is found than was counted. */
int images_fill(int64_t first, int64_t last, const BinnedAtoms *in, void *const *arrays) {
    const ImageLists *lists = arrays[0];
    Search s = {0};
    int failure = prepare(&s, in, first, last);
    for (int64_t i = first; i < last && !failure; i++) {
        failure = find_lines(&s, in, i) || find_images(&s.lines, &s.images, in->triangle[9 * in->crystal[i]]) ||
                  sort_images(&s, in->radius);
        if (!failure && s.images.count != lists->ptr[i + 1] - lists->ptr[i]) failure = 2;
        if (failure) break;
        write_pairs(&s, i, lists);
        double *distance = lists->distance + lists->ptr[i];
        int32_t *pair = lists->pair + lists->ptr[i];
        for (int64_t e = 0; e < s.images.count; e++) {
            const double apart = s.distance[s.order[e]];
            distance[e] = apart > ONE_SPOT ? apart : 0;
            pair[e] = s.lines.pair[s.images.parent[s.order[e]]];
        }
        if (lists->shift) write_directions(&s, in, i, lists);
    }
    release(&s);
    return failure;
}

/* Whether crystals first .. last - 1, and all atoms, may hold what `check_geometry` of images/checks.py refuses, which
 * then tells what: `limits` are the smallest volume of a cell beside the product of its edges, the largest fractional
 * coordinate, and the most images to be expected. Always returns 0. */
int geometry_check(int64_t first, int64_t last, const BinnedAtoms *in, void *const *arrays) {
    const double *limits = arrays[0], *T = in->triangle, *L = in->lattice;
    int32_t suspect = 0;
    double expected = 0;
    for (int64_t c = first; c < last; c++, T += 9, L += 9) {
        const double volume = fabs(T[0] * T[4] * T[8]), size = (double)(in->ptr[c + 1] - in->ptr[c]);
        double squared = 1;
        for (int64_t k = 0; k < 9; k += 3) squared *= L[k] * L[k] + L[k + 1] * L[k + 1] + L[k + 2] * L[k + 2];
        suspect |= !(volume > limits[0] * sqrt(squared) && volume < INFINITY);
        expected += size * (size / volume);
    }
    suspect |= !(expected * (4 / 3. * 3.14159265358979) * in->radius * in->radius * in->radius <= limits[2]);
    for (int64_t k = 3 * in->ptr[first]; k < 3 * in->ptr[last]; k++) suspect |= !(fabs(in->frac[k]) <= limits[1]);
    *(int32_t *)arrays[1] = suspect;
    return 0;
}

/* Whether one of the numbers is negative, infinite or NaN. */
#define OUT_OF_RANGE(type)                                                                        \
    static int32_t type##_out_of_range(const type *numbers, int64_t count) {                      \
        int32_t found = 0;                                                                        \
        for (int64_t e = 0; e < count; e++) found |= !(numbers[e] >= 0 && numbers[e] < INFINITY); \
        return found;                                                                             \
    }
OUT_OF_RANGE(float)
OUT_OF_RANGE(double)

/* Whether one of the numbers is not in [begin, end), where 0 <= begin <= end. */
static int32_t outside(const int32_t *numbers, int64_t count, int64_t begin, int64_t end) {
    const int64_t last = end < (int64_t)1 << 31 ? end : (int64_t)1 << 31;
    const uint32_t low = (uint32_t)begin, size = (uint32_t)(last - begin); /* a number below `low` wraps around */
    int32_t found = 0;
    for (int64_t e = 0; e < count; e++) found |= (uint32_t)numbers[e] - low >= size;
    return found;
}

/* Which of the rules of images/checks.py do not hold for a batch and lists that were given: flags in the order of
 * `RULES`. `counts` are A, E, P, C and whether distances are float64. Always returns 0. */
int images_check(int64_t first, int64_t last, const ImageLists *lists, void *const *arrays) {
    const int64_t *counts = arrays[0], atoms = counts[0], images = counts[1], pairs = counts[2], crystals = counts[3];
    const int64_t *ptr = lists->ptr, *target = lists->pair_target, *source = lists->pair_source, *crystal = arrays[1];
    int32_t undivided = crystal[0] != 0 || crystal[crystals] != atoms, descends = 0, beyond = ptr[0] != 0;
    for (int64_t c = 0; c < crystals; c++) undivided |= crystal[c] > crystal[c + 1];
    const int32_t impossible =
        counts[4] ? double_out_of_range(arrays[2], images) : float_out_of_range(arrays[2], images);
    for (int64_t i = first; i < last; i++) {
        descends |= ptr[i] > ptr[i + 1];
        beyond |= ptr[i + 1] > images;
    }
    int32_t unordered = 0, foreign = 0, scattered = 0;
    for (int64_t p = 0; p < pairs; p++) {
        unordered |= target[p] < (p ? target[p - 1] : 0) || target[p] >= atoms;
        foreign |= source[p] < 0 || source[p] >= atoms;
    }
    const int32_t unknown = outside(lists->pair, images, 0, pairs);
    if (!(descends || beyond || unknown))
        for (int64_t i = first, begin = 0, end = 0; i < last; i++) {
            if (unordered) {
                for (int64_t e = ptr[i]; e < ptr[i + 1]; e++) scattered |= target[lists->pair[e]] != i;
                continue;
            }
            for (; begin < pairs && target[begin] < i;) begin++;
            for (end = begin; end < pairs && target[end] == i;) end++;
            scattered |= outside(lists->pair + ptr[i], ptr[i + 1] - ptr[i], begin, end);
        }
    const int32_t found[] = {undivided, impossible, descends, beyond, unknown, unordered, foreign, scattered};
    memcpy(arrays[3], found, sizeof found);
    return 0;
}

/* Whether the images of every atom ascend from distance 0 to no more than `reach`, which attention.c relies on:
 * distances are float32, `ordered` is one flag. Always returns 0. */
int images_ordered(int64_t first, int64_t last, const ImageLists *lists, void *const *arrays) {
    const float *distance = arrays[0], reach = *(const float *)arrays[1];
    int32_t *ordered = arrays[2], holds = 1;
    for (int64_t i = first; i < last && holds; i++) {
        const int64_t begin = lists->ptr[i], end = lists->ptr[i + 1];
        holds = begin < end && distance[begin] == 0 && distance[end - 1] <= reach;
        for (int64_t e = begin + 1; e < end; e++) holds &= distance[e - 1] <= distance[e];
    }
    *ordered = holds;
    return 0;
}

const TableEntry images_table[] = {
    CONSTANT(ONE_SPOT),
    SIZE(BinnedAtoms),
    FIELD(BinnedAtoms, positions), FIELD(BinnedAtoms, lattice), FIELD(BinnedAtoms, frac),
    FIELD(BinnedAtoms, triangle), FIELD(BinnedAtoms, crystal), FIELD(BinnedAtoms, ptr),
    FIELD(BinnedAtoms, bins), FIELD(BinnedAtoms, reach), FIELD(BinnedAtoms, first_bin),
    FIELD(BinnedAtoms, bin), FIELD(BinnedAtoms, bin_ptr), FIELD(BinnedAtoms, binned),
    FIELD(BinnedAtoms, radius),
    SIZE(ImageLists),
    FIELD(ImageLists, ptr), FIELD(ImageLists, pair_ptr), FIELD(ImageLists, distance),
    FIELD(ImageLists, pair), FIELD(ImageLists, pair_target), FIELD(ImageLists, pair_source),
    FIELD(ImageLists, shift), FIELD(ImageLists, vectors),
    END};
