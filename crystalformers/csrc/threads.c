/* Rows of work on the threads that PyTorch already has.
 *
 * Threads of our own would wait for the cores on which PyTorch's idle OpenMP threads spin. GOMP_parallel, which every
 * common OpenMP library exports, runs a function on the team of its caller; it is found at run time (kernels.py), so
 * that there is but one team in the process and nothing to link.
 */
#include <stdatomic.h>
#include <stdint.h>

typedef void Team(void (*member)(void *), void *job, unsigned threads, unsigned flags);
typedef int RowFunction(int64_t first, int64_t last, const void *shared, void *const *arrays);

typedef struct {
    RowFunction *rows;
    const void *shared;
    void *const *arrays;
    const int64_t *bounds; /* chunks + 1 */
    long chunks;
    atomic_long next;
    atomic_int status;
} Job;

/* One thread: whatever chunk is next, until none is left. */
static void member(void *pointer) {
    Job *job = pointer;
    for (long chunk; (chunk = atomic_fetch_add(&job->next, 1)) < job->chunks;) {
        const int status = job->rows(job->bounds[chunk], job->bounds[chunk + 1], job->shared, job->arrays);
        if (status) atomic_store(&job->status, status);
    }
}

/* Status of the last chunk that failed, 0 if none did. */
int run_team(Team *parallel, int64_t threads, RowFunction *rows, const void *shared, void *const *arrays,
             const int64_t *bounds, int64_t chunks) {
    Job job = {rows, shared, arrays, bounds, (long)chunks, 0, 0};
    parallel(member, &job, (unsigned)threads, 0);
    return atomic_load(&job.status);
}
