/* Rows of a kernel on the threads that PyTorch already has.
 *
 * Threads of our own would wait for the cores on which PyTorch's idle OpenMP threads spin. GOMP_parallel, which
 * every common OpenMP library exports, runs a function on the caller's team of threads; kernels.py looks it up at
 * run time, so that the process has one team only and nothing needs to be linked. */
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

/* One thread: takes the next chunk until none is left. */
static void member(void *pointer) {
    Job *job = pointer;
    for (long chunk; (chunk = atomic_fetch_add(&job->next, 1)) < job->chunks;) {
        const int status = job->rows(job->bounds[chunk], job->bounds[chunk + 1], job->shared, job->arrays);
        if (status) atomic_store(&job->status, status);
    }
}

/* Call `rows` for all chunks. Returns the status of the last one that failed, or 0. */
int run_team(Team *parallel, int64_t threads, RowFunction *rows, const void *shared, void *const *arrays,
             const int64_t *bounds, int64_t chunks) {
    Job job = {rows, shared, arrays, bounds, (long)chunks, 0, 0};
    parallel(member, &job, (unsigned)threads, 0);
    return atomic_load(&job.status);
}
