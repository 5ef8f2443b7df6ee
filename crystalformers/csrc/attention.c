/* Attention over periodic images as one fused kernel, forward and backward, float32.
 *
 * It is flash attention over images: each atom's images are read once, their weights are computed again in the backward
 * pass, and nothing of size images x heads x K is ever stored. What makes it fast, exact to float32:
 *
 *   - heads are the innermost axis of every array: one vector operation serves LANES heads of an image;
 *   - q.k is computed once per pair of atoms, and v is added once per pair with the pair's whole weight;
 *   - a radial function is evaluated only where it is not zero, as a polynomial, and shared by the heads;
 *   - images are sorted by distance: the sum of an atom stops where the weight is negligible for each of its heads;
 *   - W^E is applied by the caller, once per atom and head, to the K accumulated radial functions.
 *
 * Rows (atoms) are independent: the caller shares them among threads. Gradients of keys and values are gathered by
 * source atom afterwards, so no two threads write to one place, and the bits do not depend on the threads.
 *
 * attention/backends/cpu/backend.py calls it; attention/backends/reference has the equations.
 *
 * Shapes: A atoms, E images, P pairs, H heads padded to a multiple of LANES, D their width, K radial functions.
 */
#include "cosines.h"
#include "heads.h"
#include "table.h"

/* score[p] = a . b_j for the pairs of one atom and one group of heads; a is (D, H), b is (A, D, H). */
INLINE void pair_products(heads *score, const float *a, const float *b, const int64_t *source, int64_t pairs,
                          const KernelInput *input) {
    const int64_t D = input->head_dim, H = input->head_groups * LANES;
    for (int64_t p = 0; p < pairs; p++) {
        const float *row = b + source[p] * D * H;
        heads sum = {0};
        for (int64_t d = 0; d < D; d++) sum += *(const heads *)(a + d * H) * *(const heads *)(row + d * H);
        score[p] = sum;
    }
}

/* Sum of the values of all images, in blocks: rounding grows with the length of a sum. */
INLINE heads sum_of(const heads *value, int64_t images) {
    heads whole = {0};
    for (int64_t first = 0; first < images; first += SUM_BLOCK) {
        const int64_t end = first + SUM_BLOCK < images ? first + SUM_BLOCK : images;
        heads part = value[first];
        for (int64_t n = first + 1; n < end; n++) part += value[n];
        whole += part;
    }
    return whole;
}

/* Sums of the values of the images of each pair; in blocks where pairs are few and their sums therefore long. */
INLINE void sum_by_pair(heads *whole, heads *part, const heads *value, const int32_t *pair, int32_t first_pair,
                        int64_t pairs, int64_t images) {
    const int64_t block = images > SUM_BLOCK * pairs ? SUM_BLOCK : images;
    memset(whole, 0, pairs * sizeof(heads));
    for (int64_t first = 0; first < images; first += block) {
        const int64_t end = first + block < images ? first + block : images;
        memset(part, 0, pairs * sizeof(heads));
        for (int64_t n = first; n < end; n++) part[pair[n] - first_pair] += value[n];
        for (int64_t p = 0; p < pairs; p++) whole[p] += part[p];
    }
}

/* Images of a row whose squared distance is at most `farthest`; they are sorted. */
INLINE int64_t images_within(float farthest, const float *distance, int64_t images) {
    int64_t first = 0, last = images;
    while (first < last) {
        const int64_t middle = (first + last) / 2;
        if (distance[middle] * distance[middle] > farthest)
            last = middle;
        else
            first = middle + 1;
    }
    return first;
}

/* Weights exp(score - decay d^2) of the images of atom i that count, all times one factor for each head; returns how
 * many there are. Overwrites `score`.
 *
 * The first image is at distance 0, the atom itself or another on the same spot, and no logit exceeds max_j score - decay d^2: this bounds the
 * distance from which on all images are negligible. The same maximum keeps exp from overflow, and the largest weight
 * from underflow unless all logits lie far below it; then the largest logit is searched for. An image at the radius
 * itself weighs nothing, and must not be that one. */
INLINE int64_t image_weights(heads *weight, heads *score, int64_t pairs, heads decay, heads factor, float negligible,
                             int64_t i, const KernelInput *input) {
    const int64_t begin = input->ptr[i], first_pair = input->pair_ptr[i];
    const int32_t *pair = input->pair + begin;
    const float *distance = input->distance + begin, *envelope = input->envelope + begin;
    const heads own = score[pair[0] - first_pair];
    heads top = own;
    for (int64_t p = 0; p < pairs; p++) top = maximum(top, score[p]);
    const float farthest = largest((top - own + negligible) / decay);
    const int64_t images = images_within(farthest, distance, input->ptr[i + 1] - begin);
    if (largest(top - own) > FAR_BELOW) {
        top = own;
        for (int64_t n = 0; n < images; n++)
            if (envelope[n] > 0) top = maximum(top, score[pair[n] - first_pair] - decay * (distance[n] * distance[n]));
    }
    for (int64_t p = 0; p < pairs; p++) score[p] = (score[p] - top) * LOG2_E;
    decay *= LOG2_E;
    for (int64_t n = 0; n < images; n++) {
        const heads logit = score[pair[n] - first_pair] - decay * (distance[n] * distance[n]);
        weight[n] = exp2_heads(logit) * (factor * envelope[n]);
    }
    return images;
}

static int64_t longest_row(const int64_t *ptr, int64_t first, int64_t last) {
    int64_t longest = 0;
    for (int64_t i = first; i < last; i++)
        if (ptr[i + 1] - ptr[i] > longest) longest = ptr[i + 1] - ptr[i];
    return longest;
}

/* Working memory of one thread. */
typedef struct {
    heads *weight;  /* (longest row of images + BLOCK) */
    heads *score;   /* (longest row of pairs) */
    heads *second;  /* (longest row of pairs) */
    heads *part;    /* (longest row of pairs) */
    heads *radial;  /* (K + 2 margins): sums by head, or values with the heads innermost */
    heads *grad;    /* (longest row of images + BLOCK) */
    Candidate *candidates; /* (2 * LANES * longest row of images), with frames */
    Angles angles;
    void *memory;
} Scratch;

static int allocate(Scratch *scratch, const KernelInput *input, int64_t first, int64_t last) {
    const int64_t images = longest_row(input->ptr, first, last), capacity = images + BLOCK;
    const int64_t pairs = longest_row(input->pair_ptr, first, last);
    const int64_t margin = input->windows * WINDOW_LANES, padded = input->count + 2 * margin;
    *scratch = (Scratch){0};
    heads *memory = malloc((2 * capacity + 3 * pairs + padded) * sizeof(heads));
    if (!memory) return 1;
    *scratch = (Scratch){.weight = memory,
                         .grad = memory + capacity,
                         .score = memory + 2 * capacity,
                         .second = memory + 2 * capacity + pairs,
                         .part = memory + 2 * capacity + 2 * pairs,
                         .radial = memory + 2 * capacity + 3 * pairs,
                         .memory = memory};
    if (!input->orders) return 0;
    scratch->candidates = malloc(2 * LANES * images * sizeof(Candidate));
    scratch->angles.moments = malloc(3 * (input->orders + 1) * sizeof(heads));
    scratch->angles.line = malloc(input->orders * sizeof(images_heads));
    scratch->angles.enough = malloc(blocks_of(capacity) * sizeof(int64_t));
    return !scratch->candidates || !scratch->angles.moments || !scratch->angles.line || !scratch->angles.enough;
}

static void release(Scratch *scratch) {
    free_angles(&scratch->angles);
    free(scratch->candidates);
    free(scratch->memory);
}

/* out[h][k] = in[k][h] for `count` rows of LANES heads; rows of `out` lie `stride` apart. */
INLINE void by_head(float *out, const heads *in, int64_t count, int64_t stride) {
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        heads block[LANES];
        for (int m = 0; m < LANES; m++) block[m] = in[k + m];
        transpose(block);
        for (int h = 0; h < LANES; h++) *(heads *)(out + h * stride + k) = block[h];
    }
    for (; k < count; k++)
        for (int h = 0; h < LANES; h++) out[h * stride + k] = in[k][h];
}

/* out[k][h] = in[h][k], the other way. */
INLINE void heads_innermost(heads *out, const float *in, int64_t count, int64_t stride) {
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        heads block[LANES];
        for (int h = 0; h < LANES; h++) block[h] = *(const heads *)(in + h * stride + k);
        transpose(block);
        for (int m = 0; m < LANES; m++) out[k + m] = block[m];
    }
    for (; k < count; k++)
        for (int h = 0; h < LANES; h++) out[k][h] = in[h * stride + k];
}

/* For atoms first .. last - 1: y_i = sum_e p_e v_j(e), (A, D, H); 1 / Z_i, where Z_i is the sum of the weights of
 * `image_weights`, (A, H); and side by side in (H, A, sums) sum_e p_e b(d_e), (K), and with frames the sums of
 * p_e T_l(cosine), (3, orders + 1). q already holds the factor 1/sqrt(d_h); decay = 1 / 2 sigma^2. Returns 0, or 1 if
 * memory ran out. */
int image_sum_forward(int64_t first, int64_t last, const KernelInput *input, void *const *arrays) {
    const float *q = arrays[0], *k = arrays[1], *v = arrays[2], *decay = arrays[3];
    float *y = arrays[4], *encoding = arrays[5], *share = arrays[6];
    const int64_t A = input->atoms, D = input->head_dim, H = input->head_groups * LANES;
    const int64_t K = input->count, L = cosine_sums(input), N = K + L;
    const int64_t margin = input->windows * WINDOW_LANES;
    const unsigned before = flush_denormals();
    Scratch s;
    int failure = allocate(&s, input, first, last);
    for (int64_t i = first; i < last && !failure; i++)
        for (int64_t lane = 0; lane < H && !failure; lane += LANES) {
            const int64_t first_pair = input->pair_ptr[i], pairs = input->pair_ptr[i + 1] - first_pair;
            const int64_t *source = input->pair_source + first_pair;
            pair_products(s.score, q + i * D * H + lane, k + lane, source, pairs, input);
            const heads width = *(const heads *)(decay + i * H + lane), one = (heads){0} + 1.0f;
            const int64_t images = image_weights(s.weight, s.score, pairs, width, one, input->negligible, i, input);
            heads *total = s.second;
            sum_by_pair(total, s.part, s.weight, input->pair + input->ptr[i], first_pair, pairs, images);
            const heads per_z = 1.0f / sum_of(total, pairs);
            *(heads *)(share + i * H + lane) = per_z;
            float *yi = y + i * D * H + lane;
            for (int64_t d = 0; d < D; d++) *(heads *)(yi + d * H) = (heads){0};
            for (int64_t p = 0; p < pairs; p++) {
                const float *row = v + source[p] * D * H + lane;
                const heads w = total[p] * per_z;
                for (int64_t d = 0; d < D; d++) *(heads *)(yi + d * H) += w * *(const heads *)(row + d * H);
            }
            float *out = encoding + (lane * A + i) * N;
            if (K) {
                float *sums = (float *)s.radial;
                memset(sums, 0, (K + 2 * margin) * sizeof(heads));
                if (input->windows == 1)
                    add_radial(sums, s.weight, input->distance + input->ptr[i], images, 1, input);
                else
                    add_radial(sums, s.weight, input->distance + input->ptr[i], images, input->windows, input);
                for (int h = 0; h < LANES; h++)
                    for (int64_t m = 0; m < K; m++)
                        out[h * A * N + m] = sums[h * (K + 2 * margin) + margin + m] * per_z[h];
            }
            if (!input->orders) continue;
            const int64_t around = s.angles.first = first_around(input->distance + input->ptr[i], images);
            failure = frames_of(&s.angles.frames, s.weight, around, images, i, lane, s.candidates, s.grad, input);
            if (failure) break;
            count_orders(&s.angles, s.weight, per_z, images, input);
            const heads total_around = sum_of(s.weight + around, images - around);
            cosine_moments(&s.angles, s.weight, input->direction + 3 * input->ptr[i], per_z, images, input->orders);
            isotropic_moments(&s.angles, total_around * per_z, i * H + lane, input);
            by_head(out + K, s.angles.moments, L, A * N);
        }
    release(&s);
    restore_denormals(before);
    return failure;
}

/* Gradients of q and decay of atoms first .. last - 1, (A, D, H) and (A, H); for their pairs the weight and the gradient
 * of the score, both (P, H). Returns 0, or 1 if memory ran out. */
int image_sum_backward(int64_t first, int64_t last, const KernelInput *input, void *const *arrays) {
    const float *q = arrays[0], *k = arrays[1], *v = arrays[2], *decay = arrays[3], *share = arrays[4],
        *grad_y = arrays[5], *grad_encoding = arrays[6];
    float *weight = arrays[7], *grad_score = arrays[8], *grad_q = arrays[9], *grad_decay = arrays[10];
    const int64_t A = input->atoms, D = input->head_dim, H = input->head_groups * LANES;
    const int64_t K = input->count, L = cosine_sums(input), N = K + L;
    const int64_t margin = input->windows * WINDOW_LANES;
    const float backward = input->negligible_backward;
    const unsigned before = flush_denormals();
    Scratch s;
    int failure = allocate(&s, input, first, last);
    for (int64_t i = first; i < last && !failure; i++)
        for (int64_t lane = 0; lane < H && !failure; lane += LANES) {
            const int64_t first_pair = input->pair_ptr[i], pairs = input->pair_ptr[i + 1] - first_pair;
            const int64_t *source = input->pair_source + first_pair;
            pair_products(s.score, q + i * D * H + lane, k + lane, source, pairs, input);
            pair_products(s.second, grad_y + i * D * H + lane, v + lane, source, pairs, input);
            const heads width = *(const heads *)(decay + i * H + lane);
            const heads per_z = *(const heads *)(share + i * H + lane);
            const int64_t images = image_weights(s.weight, s.score, pairs, width, per_z, backward, i, input);
            const float *distance = input->distance + input->ptr[i];
            const float *grad_sums = grad_encoding + (lane * A + i) * N;
            const int64_t around = s.angles.first = first_around(distance, images);
            heads everywhere = {0};
            if (input->orders) {
                failure = frames_of(&s.angles.frames, s.weight, around, images, i, lane, s.candidates, s.grad, input);
                if (failure) break;
                heads_innermost(s.angles.moments, grad_sums + K, L, A * N);
                everywhere = isotropic_series(&s.angles, i * H + lane, input);
                /* More exact than forward by this factor: the gradient of the width counts images by decay d^2, which
                 * is no larger. */
                count_orders(&s.angles, s.weight, (heads){0} + backward, images, input);
            }
            for (int64_t n = 0; n < images; n++) s.grad[n] = n < around ? (heads){0} : everywhere;
            if (input->orders)
                cosine_series(s.grad, &s.angles, input->direction + 3 * input->ptr[i], images, input->orders);
            if (K) {
                memset(s.radial, 0, (K + 2 * margin) * sizeof(heads));
                heads_innermost(s.radial + margin, grad_sums, K, A * N);
                if (input->windows == 1)
                    gather_radial(s.grad, s.radial, distance, images, 1, input);
                else
                    gather_radial(s.grad, s.radial, distance, images, input->windows, input);
            }
            const int32_t *pair = input->pair + input->ptr[i];
            heads mean = {0}, whole = {0}, rest = {0}, slope = {0}, spread = {0};
            for (int64_t n = 0; n < images; n++) {
                s.grad[n] += s.second[pair[n] - first_pair];
                mean += s.weight[n] * s.grad[n];
            }
            heads *total = s.second;
            sum_by_pair(total, s.part, s.weight, pair, first_pair, pairs, images);
            for (int64_t p = 0; p < pairs; p++) whole += total[p];
            mean /= whole;
            /* The gradient of a logit is w (g - mean of g). The mean is subtracted twice, to remove what rounding
             * left of it. */
            for (int64_t start = 0; start < images; start += SUM_BLOCK) {
                const int64_t stop = start + SUM_BLOCK < images ? start + SUM_BLOCK : images;
                heads part[3] = {{0}};
                for (int64_t n = start; n < stop; n++) {
                    const heads w = s.weight[n], grad = s.grad[n] = w * (s.grad[n] - mean);
                    const float squared = distance[n] * distance[n];
                    part[0] += grad;
                    part[1] += grad * squared;
                    part[2] += w * squared;
                }
                rest += part[0];
                slope += part[1];
                spread += part[2];
            }
            rest /= whole;
            *(heads *)(grad_decay + i * H + lane) = rest * spread - slope;
            sum_by_pair(s.score, s.part, s.grad, pair, first_pair, pairs, images);
            for (int64_t p = 0; p < pairs; p++) {
                s.score[p] -= rest * total[p];
                *(heads *)(weight + (first_pair + p) * H + lane) = total[p] / whole;
                *(heads *)(grad_score + (first_pair + p) * H + lane) = s.score[p];
            }
            float *out = grad_q + i * D * H + lane;
            for (int64_t d = 0; d < D; d++) *(heads *)(out + d * H) = (heads){0};
            for (int64_t p = 0; p < pairs; p++) {
                const float *row = k + source[p] * D * H + lane;
                for (int64_t d = 0; d < D; d++) *(heads *)(out + d * H) += s.score[p] * *(const heads *)(row + d * H);
            }
        }
    release(&s);
    restore_denormals(before);
    return failure;
}

/* Second moments sum_e p_e r_e r_e^T of the directions of the images, (A, H, 6): xx, yy, zz, xy, yz, zx; for atoms
 * first .. last - 1. Returns 0, or 1 if memory ran out. */
int image_moments(int64_t first, int64_t last, const KernelInput *input, void *const *arrays) {
    const float *q = arrays[0], *k = arrays[1], *decay = arrays[2];
    float *moments = arrays[3];
    const int64_t D = input->head_dim, H = input->head_groups * LANES;
    const unsigned before = flush_denormals();
    Scratch s;
    int failure = allocate(&s, input, first, last);
    for (int64_t i = first; i < last && !failure; i++)
        for (int64_t lane = 0; lane < H; lane += LANES) {
            const int64_t first_pair = input->pair_ptr[i], pairs = input->pair_ptr[i + 1] - first_pair;
            pair_products(s.score, q + i * D * H + lane, k + lane, input->pair_source + first_pair, pairs, input);
            heads sum[6] = {{0}};
            const heads width = *(const heads *)(decay + i * H + lane), one = (heads){0} + 1.0f;
            const int64_t images = image_weights(s.weight, s.score, pairs, width, one, input->negligible, i, input);
            for (int64_t start = 0; start < images; start += SUM_BLOCK) {
                const int64_t stop = start + SUM_BLOCK < images ? start + SUM_BLOCK : images;
                heads part[6] = {{0}};
                for (int64_t n = start; n < stop; n++) {
                    const float *r = input->direction + 3 * (input->ptr[i] + n);
                    for (int x = 0; x < 3; x++) {
                        part[x] += s.weight[n] * (r[x] * r[x]);
                        part[3 + x] += s.weight[n] * (r[x] * r[(x + 1) % 3]);
                    }
                }
                for (int x = 0; x < 6; x++) sum[x] += part[x];
            }
            const heads per_z = 1.0f / sum_of(s.weight, images);
            for (int x = 0; x < 6; x++)
                for (int l = 0; l < LANES; l++) moments[(i * H + lane + l) * 6 + x] = sum[x][l] * per_z[l];
        }
    release(&s);
    restore_denormals(before);
    return failure;
}

/* Gradients of k and v of source atoms first .. last - 1, gathered from the pairs they take part in. */
int image_sum_pull(int64_t first, int64_t last, const KernelInput *input, void *const *arrays) {
    const int64_t *pair_target = arrays[0], *by_source = arrays[1], *source_ptr = arrays[2];
    const float *q = arrays[3], *grad_y = arrays[4], *weight = arrays[5], *grad_score = arrays[6];
    float *grad_k = arrays[7], *grad_v = arrays[8];
    const int64_t D = input->head_dim, H = input->head_groups * LANES;
    const unsigned before = flush_denormals();
    for (int64_t j = first; j < last; j++)
        for (int64_t lane = 0; lane < H; lane += LANES) {
            float *gk = grad_k + j * D * H + lane, *gv = grad_v + j * D * H + lane;
            for (int64_t d = 0; d < D; d++) *(heads *)(gk + d * H) = *(heads *)(gv + d * H) = (heads){0};
            for (int64_t n = source_ptr[j]; n < source_ptr[j + 1]; n++) {
                const int64_t p = by_source[n], i = pair_target[p];
                const heads w = *(const heads *)(weight + p * H + lane);
                const heads g = *(const heads *)(grad_score + p * H + lane);
                const float *qi = q + i * D * H + lane, *gy = grad_y + i * D * H + lane;
                for (int64_t d = 0; d < D; d++) {
                    *(heads *)(gk + d * H) += g * *(const heads *)(qi + d * H);
                    *(heads *)(gv + d * H) += w * *(const heads *)(gy + d * H);
                }
            }
        }
    restore_denormals(before);
    return 0;
}

const TableEntry attention_table[] = {
    CONSTANT(LANES), CONSTANT(WINDOW_LANES), CONSTANT(BLOCK),
    CONSTANT(COLLINEAR), CONSTANT(PENALTY_FLOOR), CONSTANT(EXACTLY_COLLINEAR),
    SIZE(KernelInput),
    FIELD(KernelInput, distance), FIELD(KernelInput, envelope), FIELD(KernelInput, pair),
    FIELD(KernelInput, ptr), FIELD(KernelInput, pair_ptr), FIELD(KernelInput, pair_source),
    FIELD(KernelInput, direction), FIELD(KernelInput, tail), FIELD(KernelInput, frame_ptr),
    FIELD(KernelInput, frames), FIELD(KernelInput, isotropic), FIELD(KernelInput, radial),
    FIELD(KernelInput, spacing), FIELD(KernelInput, tie_width),
    FIELD(KernelInput, negligible), FIELD(KernelInput, negligible_backward), FIELD(KernelInput, windows),
    FIELD(KernelInput, terms), FIELD(KernelInput, count), FIELD(KernelInput, orders),
    FIELD(KernelInput, atoms), FIELD(KernelInput, head_groups), FIELD(KernelInput, head_dim),
    END};
