/* Attention over periodic images as one fused kernel, forward and backward, float32.
 *
 * It is flash attention over images: each atom's images stream past once, their weights are recomputed in the
 * backward pass, and nothing of size images x heads x K is ever stored. What makes it fast, exact to float32:
 *
 *   - heads are the innermost axis of every array: one vector operation serves LANES heads of an image;
 *   - q.k is computed once per pair of atoms, and v is added once per pair with the pair's whole weight;
 *   - a radial function is evaluated only where it is not zero, and shared by the heads;
 *   - images are sorted by distance: an atom stops where the weight is negligible for each of its heads;
 *   - W^E is applied by the caller, once per atom and head, to the K accumulated radial functions.
 *
 * Rows (atoms) are independent: the caller shares them among threads. Gradients of keys and values are pulled
 * by source atom afterwards, so no two threads write to one place, and the bits do not depend on the threads.
 *
 * Shapes: A atoms, E images, P pairs, H heads padded to a multiple of LANES, D their width, K radial functions.
 * See fused.py for the caller and reference.py for the equations.
 */
#include "framed.h"
#include "heads.h"

/* score[p] = a . b_j for the pairs of one atom and one group of heads; a is (D, H), b is (A, D, H). */
INLINE void pair_products(heads *score, const float *a, const float *b, const int64_t *source, int64_t pairs,
                          const Layout *layout) {
    const int64_t D = layout->head_dim, H = layout->head_groups * LANES;
    for (int64_t p = 0; p < pairs; p++) {
        const float *row = b + source[p] * D * H;
        heads sum = {0};
        for (int64_t d = 0; d < D; d++) sum += *(const heads *)(a + d * H) * *(const heads *)(row + d * H);
        score[p] = sum;
    }
}

/* Logits of the images of atom i that count, and their maximum; returns how many they are. The first image is the
 * atom itself at distance 0, and no logit exceeds max_j score - decay d^2: that bounds where all that follow are
 * negligible beside it. Images on the very edge weigh nothing, and must not set the maximum either. */
INLINE int64_t image_logits(heads *logit, heads *top, const heads *score, int64_t pairs, heads decay, int64_t i,
                            const Layout *layout) {
    const int64_t begin = layout->ptr[i], end = layout->ptr[i + 1], first_pair = layout->pair_ptr[i];
    const heads own = score[layout->pair[begin] - first_pair];
    heads best = own;
    for (int64_t p = 0; p < pairs; p++) best = maximum(best, score[p]);
    const float farthest = largest((best - own + NEGLIGIBLE) / decay);
    *top = own;
    int64_t e = begin;
    for (; e < end; e++) {
        const float squared = layout->distance[e] * layout->distance[e];
        if (squared > farthest || layout->taper[e] == 0) break;
        const heads value = score[layout->pair[e] - first_pair] - decay * squared;
        logit[e - begin] = value;
        *top = maximum(*top, value);
    }
    return e - begin;
}

static int64_t longest_row(const int64_t *ptr, int64_t first, int64_t last) {
    int64_t longest = 0;
    for (int64_t i = first; i < last; i++)
        if (ptr[i + 1] - ptr[i] > longest) longest = ptr[i + 1] - ptr[i];
    return longest;
}

/* Scratch of one thread; one allocation. */
typedef struct {
    heads *weight;  /* (longest row of images) */
    heads *score;   /* (longest row of pairs) */
    heads *second;  /* (longest row of pairs) */
    heads *padded;  /* (K + 2 margins) */
    float *radial;  /* (margin) */
    Candidate *candidates; /* (2 * LANES * longest row of images), with frames */
    Angles angles;
    void *memory;
} Scratch;

static int allocate(Scratch *scratch, const Layout *layout, int64_t first, int64_t last) {
    const int64_t images = longest_row(layout->ptr, first, last);
    const int64_t pairs = longest_row(layout->pair_ptr, first, last);
    const int64_t margin = layout->windows * WINDOW_LANES, padded = layout->count + 2 * margin;
    *scratch = (Scratch){0};
    heads *memory = malloc((images + 2 * pairs + padded + margin) * sizeof(heads));
    if (!memory) return 1;
    *scratch = (Scratch){.weight = memory,
                         .score = memory + images,
                         .second = memory + images + pairs,
                         .padded = memory + images + 2 * pairs,
                         .radial = (float *)(memory + images + 2 * pairs + padded),
                         .memory = memory};
    if (!layout->nodes) return 0;
    scratch->candidates = malloc(2 * LANES * images * sizeof(Candidate));
    scratch->angles.grid = malloc(LANES * 3 * layout->nodes * sizeof(float));
    return !scratch->candidates || !scratch->angles.grid;
}

static void release(Scratch *scratch) {
    free_angles(&scratch->angles);
    free(scratch->candidates);
    free(scratch->memory);
}

/* y_i = sum_e p_e v_j(e), (A, D, H); b_i = sum_e p_e b(d_e), (A, H, K); log Z_i, (A, H); with frames the weights spread
 * on the grids of cosines, (A, H, 3, nodes); for atoms first .. last - 1.
 * q already holds the factor 1/sqrt(d_h); decay = 1 / 2 sigma^2. Returns 0, or 1 if memory ran out. */
int image_sum_forward(int64_t first, int64_t last, const Layout *layout, void *const *arrays) {
    const float *q = arrays[0], *k = arrays[1], *v = arrays[2], *decay = arrays[3];
    float *y = arrays[4], *b = arrays[5], *log_z = arrays[6], *angular = arrays[7];
    const int64_t D = layout->head_dim, H = layout->head_groups * LANES, K = layout->count;
    const int64_t margin = layout->windows * WINDOW_LANES;
    Scratch s;
    int failure = allocate(&s, layout, first, last);
    for (int64_t i = first; i < last && !failure; i++)
        for (int64_t lane = 0; lane < H && !failure; lane += LANES) {
            const int64_t first_pair = layout->pair_ptr[i], pairs = layout->pair_ptr[i + 1] - first_pair;
            const int64_t *source = layout->pair_source + first_pair;
            pair_products(s.score, q + i * D * H + lane, k + lane, source, pairs, layout);
            heads top, z = {0};
            const heads width = *(const heads *)(decay + i * H + lane);
            const int64_t images = image_logits(s.weight, &top, s.score, pairs, width, i, layout);
            heads *total = s.second;
            memset(total, 0, pairs * sizeof(heads));
            memset(s.padded, 0, (K + 2 * margin) * sizeof(heads));
            for (int64_t n = 0; n < images; n++) {
                const int64_t e = layout->ptr[i] + n;
                const heads w = s.weight[n] = exp_heads(s.weight[n] - top) * layout->taper[e];
                z += w;
                total[layout->pair[e] - first_pair] += w;
                if (K) {
                    const int64_t row = radial_window(s.radial, layout->distance[e], layout);
                    for (int64_t m = 0; m < margin; m++) s.padded[row + m] += s.radial[m] * w;
                }
            }
            const heads per_z = 1.0f / z;
            for (int l = 0; l < LANES; l++) log_z[i * H + lane + l] = top[l] + logf(z[l]);
            float *yi = y + i * D * H + lane;
            for (int64_t d = 0; d < D; d++) *(heads *)(yi + d * H) = (heads){0};
            for (int64_t p = 0; p < pairs; p++) {
                const float *row = v + source[p] * D * H + lane;
                const heads w = total[p] * per_z;
                for (int64_t d = 0; d < D; d++) *(heads *)(yi + d * H) += w * *(const heads *)(row + d * H);
            }
            for (int64_t m = 0; m < K; m++) {
                const heads value = s.padded[margin + m] * per_z;
                for (int l = 0; l < LANES; l++) b[(i * H + lane + l) * K + m] = value[l];
            }
            if (!layout->nodes) continue;
            failure = frames_of(&s.angles, s.weight, images, i, lane, s.candidates, layout);
            memset(s.angles.grid, 0, LANES * 3 * layout->nodes * sizeof(float));
            heads around = {0};
            for (int64_t n = 1; n < images && !failure; n++) {
                around += s.weight[n];
                spread(&s.angles, s.weight[n] * per_z, layout->direction + 3 * (layout->ptr[i] + n), layout);
            }
            spread_isotropic(&s.angles, around * per_z, i * H + lane, layout);
            memcpy(angular + (i * H + lane) * 3 * layout->nodes, s.angles.grid, LANES * 3 * layout->nodes * sizeof(float));
        }
    release(&s);
    return failure;
}

/* Gradients of q and decay of atoms first .. last - 1; for their pairs the weight and the gradient of the score, (P, H).
 * mean = grad_y . y + grad_b . b + grad_angular . angular, (A, H), the softmax's own term. Returns 0, or 1 if memory ran out. */
int image_sum_backward(int64_t first, int64_t last, const Layout *layout, void *const *arrays) {
    const float *q = arrays[0], *k = arrays[1], *v = arrays[2], *decay = arrays[3], *log_z = arrays[4],
        *grad_y = arrays[5], *grad_b = arrays[6], *grad_angular = arrays[7], *mean = arrays[8];
    float *weight = arrays[9], *grad_score = arrays[10], *grad_q = arrays[11], *grad_decay = arrays[12];
    const int64_t D = layout->head_dim, H = layout->head_groups * LANES, K = layout->count;
    const int64_t margin = layout->windows * WINDOW_LANES;
    Scratch s;
    int failure = allocate(&s, layout, first, last);
    for (int64_t i = first; i < last && !failure; i++)
        for (int64_t lane = 0; lane < H && !failure; lane += LANES) {
            const int64_t first_pair = layout->pair_ptr[i], pairs = layout->pair_ptr[i + 1] - first_pair;
            const int64_t *source = layout->pair_source + first_pair;
            pair_products(s.score, q + i * D * H + lane, k + lane, source, pairs, layout);
            pair_products(s.second, grad_y + i * D * H + lane, v + lane, source, pairs, layout);
            heads top, slope = {0}, total = {0}, rest = {0}, spread = {0};
            const heads width = *(const heads *)(decay + i * H + lane);
            const heads lz = *(const heads *)(log_z + i * H + lane), own = *(const heads *)(mean + i * H + lane);
            const int64_t images = image_logits(s.weight, &top, s.score, pairs, width, i, layout);
            memset(s.padded, 0, (K + 2 * margin) * sizeof(heads));
            for (int64_t m = 0; m < K; m++)
                for (int l = 0; l < LANES; l++) s.padded[margin + m][l] = grad_b[(i * H + lane + l) * K + m];
            for (int64_t p = first_pair; p < first_pair + pairs; p++) {
                *(heads *)(weight + p * H + lane) = (heads){0};
                *(heads *)(grad_score + p * H + lane) = (heads){0};
            }
            for (int64_t n = 0; n < images; n++)
                s.weight[n] = exp_heads(s.weight[n] - lz) * layout->taper[layout->ptr[i] + n];
            heads everywhere = {0};
            if (layout->nodes) {
                failure = frames_of(&s.angles, s.weight, images, i, lane, s.candidates, layout);
                if (failure) break;
                memcpy(s.angles.grid, grad_angular + (i * H + lane) * 3 * layout->nodes,
                       LANES * 3 * layout->nodes * sizeof(float));
                everywhere = gather_isotropic(&s.angles, i * H + lane, layout);
            }
            for (int64_t n = 0; n < images; n++) {
                const int64_t e = layout->ptr[i] + n, p = layout->pair[e];
                const float d = layout->distance[e];
                const heads w = s.weight[n];
                heads grad = s.second[p - first_pair] - own;
                if (K) {
                    const int64_t row = radial_window(s.radial, d, layout);
                    for (int64_t m = 0; m < margin; m += 4) {
                        const heads a = s.radial[m] * s.padded[row + m] + s.radial[m + 1] * s.padded[row + m + 1];
                        const heads c = s.radial[m + 2] * s.padded[row + m + 2] + s.radial[m + 3] * s.padded[row + m + 3];
                        grad += a + c;
                    }
                }
                if (layout->nodes && n) grad += everywhere + gather(&s.angles, layout->direction + 3 * e, layout);
                grad *= w;
                *(heads *)(weight + p * H + lane) += w;
                *(heads *)(grad_score + p * H + lane) += grad;
                slope -= grad * (d * d);
                total += w;
                rest += grad;
                spread += w * (d * d);
            }
            /* The gradients of the logits sum to zero; what rounding left of `mean` is taken back here. */
            rest /= total;
            slope += rest * spread;
            for (int64_t p = first_pair; p < first_pair + pairs; p++)
                *(heads *)(grad_score + p * H + lane) -= rest * *(const heads *)(weight + p * H + lane);
            *(heads *)(grad_decay + i * H + lane) = slope;
            float *out = grad_q + i * D * H + lane;
            for (int64_t d = 0; d < D; d++) *(heads *)(out + d * H) = (heads){0};
            for (int64_t p = 0; p < pairs; p++) {
                const float *row = k + source[p] * D * H + lane;
                const heads g = *(const heads *)(grad_score + (first_pair + p) * H + lane);
                for (int64_t d = 0; d < D; d++) *(heads *)(out + d * H) += g * *(const heads *)(row + d * H);
            }
        }
    release(&s);
    return failure;
}

/* Second moments sum_e p_e r_e r_e^T of the directions of the images, (A, H, 6): xx, yy, zz, xy, yz, zx; for atoms
 * first .. last - 1. Returns 0, or 1 if memory ran out. */
int image_moments(int64_t first, int64_t last, const Layout *layout, void *const *arrays) {
    const float *q = arrays[0], *k = arrays[1], *decay = arrays[2];
    float *moments = arrays[3];
    const int64_t D = layout->head_dim, H = layout->head_groups * LANES;
    Scratch s;
    int failure = allocate(&s, layout, first, last);
    for (int64_t i = first; i < last && !failure; i++)
        for (int64_t lane = 0; lane < H; lane += LANES) {
            const int64_t first_pair = layout->pair_ptr[i], pairs = layout->pair_ptr[i + 1] - first_pair;
            pair_products(s.score, q + i * D * H + lane, k + lane, layout->pair_source + first_pair, pairs, layout);
            heads top, z = {0}, sum[6] = {{0}};
            const heads width = *(const heads *)(decay + i * H + lane);
            const int64_t images = image_logits(s.weight, &top, s.score, pairs, width, i, layout);
            for (int64_t n = 0; n < images; n++) {
                const heads w = exp_heads(s.weight[n] - top) * layout->taper[layout->ptr[i] + n];
                const float *r = layout->direction + 3 * (layout->ptr[i] + n);
                z += w;
                for (int x = 0; x < 3; x++) {
                    sum[x] += w * (r[x] * r[x]);
                    sum[3 + x] += w * (r[x] * r[(x + 1) % 3]);
                }
            }
            for (int x = 0; x < 6; x++)
                for (int l = 0; l < LANES; l++) moments[(i * H + lane + l) * 6 + x] = sum[x][l] / z[l];
        }
    release(&s);
    return failure;
}

/* Gradients of k and v of source atoms first .. last - 1, gathered from the pairs they take part in. */
int image_sum_pull(int64_t first, int64_t last, const Layout *layout, void *const *arrays) {
    const int64_t *pair_target = arrays[0], *by_source = arrays[1], *source_ptr = arrays[2];
    const float *q = arrays[3], *grad_y = arrays[4], *weight = arrays[5], *grad_score = arrays[6];
    float *grad_k = arrays[7], *grad_v = arrays[8];
    const int64_t D = layout->head_dim, H = layout->head_groups * LANES;
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
    return 0;
}
