/* A load client that costs little: one thread, epoll, keep-alive connections, every request prepared beforehand.
 *
 * load --port N --bodies FILE [--path P] [--head FILE] [--connections N] [--seconds S] [--requests N] [--rate R]
 *      [--bytes N] [--events N]
 *
 * FILE of --bodies holds one JSON body per line, used in turn. FILE of --head holds extra header lines. Every run of
 * sixteen `@` in either is replaced by sixteen hexadecimal digits that differ in every request.
 * Closed loop by default: each connection sends its next request when its answer is complete. With --rate requests are
 * due at fixed times on any idle connection, and latency counts from when a request was due, so that a slow server
 * cannot hide by slowing the client down.
 * An answer is right when its status is 200, its decoded body has --bytes bytes (if given), and, for streams, --events
 * events (if given) of which the last is [DONE]. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 2048
#define MAX_SAMPLES 4000000
#define IN_ROOM 131072
#define STALL_NS 20000000000LL

enum frame { HEAD, LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

struct conn {
    int fd, busy;
    enum frame frame;
    int64_t begun_ns; /* when the request was sent, or was due */
    size_t left;      /* bytes of the body or of the chunk that are still to come */
    size_t body, events, line; /* line: length of the current line of an event stream */
    int status, streamed, done_line;
    char tail[16]; /* the start of the current line, to know [DONE] */
    size_t in_length, out_length, out_sent;
    char *in, *out;
};

struct template {
    char *bytes;
    size_t length, marks[64];
    int mark_count;
};

static struct conn conns[MAX_CONNECTIONS];
static struct template *requests;
static int request_count, next_request, poll_fd, connections = 32, port;
static long want_bytes = -1, want_events = -1;
static uint64_t serial;
static uint32_t *samples, *first_samples;
static size_t finished, errors, events_total, sample_count, first_count;
static char first_error[256];

static void die(const char *what) {
    perror(what);
    exit(2);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static char *read_file(const char *path, size_t *length) {
    FILE *f = fopen(path, "rb");
    if (!f) die(path);
    char *data = NULL;
    size_t n = 0, room = 0, got = 1;
    while (got) {
        if (n + 65536 + 1 > room && !(data = realloc(data, room = room * 2 + 131072))) die("realloc");
        n += got = fread(data + n, 1, 65536, f);
    }
    data[n] = 0;
    fclose(f);
    *length = n;
    return data;
}

static void prepare(const char *path, const char *head, char *bodies, size_t length) {
    requests = calloc(1024, sizeof *requests);
    for (char *line = bodies; line < bodies + length && request_count < 1024;) {
        char *end = strchr(line, '\n');
        if (!end) end = bodies + length;
        if (end > line) {
            struct template *t = &requests[request_count++];
            size_t room = (end - line) + strlen(head) + strlen(path) + 256;
            t->bytes = malloc(room);
            t->length = snprintf(t->bytes, room,
                                 "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept: application/json\r\n"
                                 "content-type: application/json\r\n%scontent-length: %zu\r\n\r\n%.*s",
                                 path, port, head, (size_t)(end - line), (int)(end - line), line);
            for (char *at = t->bytes; (at = strstr(at, "@@@@@@@@@@@@@@@@")) && t->mark_count < 64; at += 16)
                t->marks[t->mark_count++] = at - t->bytes;
        }
        line = end + 1;
    }
    if (!request_count) die("no body");
}

static void note_error(const char *what, const char *data, size_t length) {
    errors++;
    if (first_error[0]) return;
    int n = snprintf(first_error, sizeof first_error, "%s ", what);
    for (size_t i = 0; i < length && n < (int)sizeof first_error - 1; i++, n++)
        first_error[n] = data[i] < ' ' || data[i] == '"' || data[i] == '\\' || data[i] & 0x80 ? ' ' : data[i];
    first_error[n] = 0;
}

static void dial(struct conn *c) {
    int one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &e);
    c->busy = 0;
    c->in_length = 0;
}

static void fail(struct conn *c, const char *what, const char *data, size_t length) {
    note_error(what, data, length);
    close(c->fd);
    dial(c);
}

static void flush_out(struct conn *c) {
    while (c->out_sent < c->out_length) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_length - c->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
            epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
            return;
        }
        if (n < 0) return; /* the read side will see it */
        c->out_sent += n;
    }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void start(struct conn *c, int64_t begun_ns) {
    static const char hex[] = "0123456789abcdef";
    struct template *t = &requests[next_request++ % request_count];
    c->busy = 1;
    c->frame = HEAD;
    c->begun_ns = begun_ns;
    c->body = c->events = c->line = 0;
    c->done_line = 0;
    const char *from = t->bytes;
    if (t->mark_count) {
        memcpy(c->out, t->bytes, t->length);
        for (int i = 0; i < t->mark_count; i++) {
            uint64_t x = ++serial * 0x9E3779B97F4A7C15ULL; /* odd: no two serials give the same digits */
            for (int d = 0; d < 16; d++, x >>= 4) c->out[t->marks[i] + d] = hex[x & 15];
        }
        from = c->out;
    }
    ssize_t n = send(c->fd, from, t->length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == (ssize_t)t->length) return;
    if (from != c->out) memcpy(c->out, t->bytes, t->length);
    c->out_length = t->length;
    c->out_sent = n > 0 ? n : 0;
    flush_out(c);
}

/* Counts events: an empty line ends one. */
static void walk(struct conn *c, const char *data, size_t length) {
    c->body += length;
    if (!c->streamed) return;
    for (const char *end = data + length; data < end;) {
        const char *newline = memchr(data, '\n', end - data);
        size_t part = (newline ? newline : end) - data;
        if (c->line < sizeof c->tail) {
            size_t keep = sizeof c->tail - c->line < part ? sizeof c->tail - c->line : part;
            memcpy(c->tail + c->line, data, keep);
        }
        c->line += part;
        if (!newline) return;
        if (c->line == 0) {
            if (!c->events && first_count < MAX_SAMPLES)
                first_samples[first_count++] = (uint32_t)((now_ns() - c->begun_ns) / 1000);
            c->events++;
        } else {
            c->done_line = c->line == 12 && !memcmp(c->tail, "data: [DONE]", 12);
        }
        c->line = 0;
        data = newline + 1;
    }
}

/* Returns 1 when the answer is complete, 0 when more must come, -1 when it cannot be understood. */
static int parse(struct conn *c) {
    char *at = c->in, *end = c->in + c->in_length;
    int complete = 0;
    while (at < end && !complete) {
        if (c->frame == HEAD) {
            char *blank = memmem(at, end - at, "\r\n\r\n", 4);
            if (!blank) break;
            *blank = 0;
            if (strncmp(at, "HTTP/1.1 ", 9)) return -1;
            c->status = atoi(at + 9);
            c->streamed = strcasestr(at, "text/event-stream") != NULL;
            const char *length = strcasestr(at, "\r\ncontent-length:");
            if (strcasestr(at, "\r\ntransfer-encoding: chunked")) {
                c->frame = CHUNK_SIZE;
            } else if (length) {
                c->frame = LENGTH;
                c->left = strtoul(length + 17, NULL, 10);
                complete = c->left == 0;
            } else {
                return -1;
            }
            at = blank + 4;
        } else if (c->frame == LENGTH || c->frame == CHUNK_DATA) {
            size_t n = (size_t)(end - at) < c->left ? (size_t)(end - at) : c->left;
            walk(c, at, n);
            at += n;
            c->left -= n;
            if (!c->left) {
                complete = c->frame == LENGTH;
                c->frame = CHUNK_END;
            }
        } else {
            char *newline = memchr(at, '\n', end - at);
            if (!newline) break;
            if (c->frame == CHUNK_END) {
                c->frame = CHUNK_SIZE;
            } else if (c->frame == CHUNK_SIZE) {
                c->left = strtoul(at, NULL, 16);
                c->frame = c->left ? CHUNK_DATA : TRAILER;
            } else {
                complete = newline - at == 1;
            }
            at = newline + 1;
        }
    }
    c->in_length = end - at;
    memmove(c->in, at, c->in_length);
    return complete;
}

/* Judges a complete answer. */
static void judge(struct conn *c) {
    char what[96] = "";
    if (c->status != 200) snprintf(what, sizeof what, "status %d", c->status);
    else if (want_bytes >= 0 && c->body != (size_t)want_bytes) snprintf(what, sizeof what, "%zu bytes of body", c->body);
    else if (want_events >= 0 && c->events != (size_t)want_events) snprintf(what, sizeof what, "%zu events", c->events);
    else if (want_events >= 0 && !c->done_line) snprintf(what, sizeof what, "no [DONE]");
    if (what[0]) note_error(what, "", 0);
    finished++;
    events_total += c->events;
    if (sample_count < MAX_SAMPLES) samples[sample_count++] = (uint32_t)((now_ns() - c->begun_ns) / 1000);
    c->busy = 0;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void percentiles(const char *name, uint32_t *from, size_t n) {
    qsort(from, n, sizeof *from, by_value);
    printf(",\"%s\":{\"p50\":%u,\"p90\":%u,\"p99\":%u,\"max\":%u}", name, n ? from[n / 2] : 0, n ? from[n * 9 / 10] : 0,
           n ? from[n * 99 / 100] : 0, n ? from[n - 1] : 0);
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1000UL);
    static struct option options[] = {{"port", 1, 0, 'p'},    {"bodies", 1, 0, 'b'}, {"path", 1, 0, 'u'},
                                      {"head", 1, 0, 'h'},    {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'},
                                      {"requests", 1, 0, 'n'}, {"rate", 1, 0, 'r'},  {"bytes", 1, 0, 'B'},
                                      {"events", 1, 0, 'E'},  {0, 0, 0, 0}};
    const char *bodies = NULL, *path = "/v1/chat/completions", *head_path = NULL;
    double seconds = 1e9, rate = 0;
    size_t most = SIZE_MAX, length = 0;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o == 'p') port = atoi(optarg);
        else if (o == 'b') bodies = optarg;
        else if (o == 'u') path = optarg;
        else if (o == 'h') head_path = optarg;
        else if (o == 'c') connections = atoi(optarg);
        else if (o == 's') seconds = atof(optarg);
        else if (o == 'n') most = strtoul(optarg, NULL, 10);
        else if (o == 'r') rate = atof(optarg);
        else if (o == 'B') want_bytes = atol(optarg);
        else if (o == 'E') want_events = atol(optarg);
        else return 2;
    }
    if (!bodies || !port || connections < 1 || connections > MAX_CONNECTIONS) {
        fprintf(stderr, "load --port N --bodies FILE [options]: see the top of load.c\n");
        return 2;
    }
    const char *head = head_path ? read_file(head_path, &length) : "";
    char *lines = read_file(bodies, &length);
    prepare(path, head, lines, length);
    size_t longest = 0;
    for (int i = 0; i < request_count; i++)
        if (requests[i].length > longest) longest = requests[i].length;
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    first_samples = malloc(MAX_SAMPLES * sizeof *first_samples);
    poll_fd = epoll_create1(0);
    int timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event timer_event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &timer_event);
    for (int i = 0; i < connections; i++) {
        conns[i].in = malloc(IN_ROOM);
        conns[i].out = malloc(longest);
        dial(&conns[i]);
    }
    int64_t begun = now_ns(), stop = begun + (int64_t)(seconds * 1e9), last = begun;
    int64_t interval = rate > 0 ? (int64_t)(1e9 / rate) : 0, due = begun;
    size_t started = 0;
    int idle_from = 0;
    if (!interval)
        for (; started < (size_t)connections && started < most; started++) start(&conns[started], now_ns());
    else {
        struct itimerspec t = {.it_interval = {interval / 1000000000, interval % 1000000000}, .it_value = {0, 1000}};
        timerfd_settime(timer_fd, 0, &t, NULL);
    }
    struct epoll_event ready[256];
    for (;;) {
        int n = epoll_wait(poll_fd, ready, 256, 1000);
        int64_t now = now_ns();
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (!c) {
                uint64_t ticks;
                (void)!read(timer_fd, &ticks, sizeof ticks);
                continue;
            }
            if (ready[i].events & EPOLLOUT) flush_out(c);
            if (!(ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
            ssize_t got = recv(c->fd, c->in + c->in_length, IN_ROOM - c->in_length, MSG_DONTWAIT);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) {
                fail(c, c->busy ? "connection closed in an answer" : "connection closed", "", 0);
            } else {
                c->in_length += got;
                int state = parse(c);
                if (state < 0) fail(c, "not HTTP:", c->in, c->in_length);
                else if (!state) continue;
                else judge(c);
            }
            last = now;
            if (!interval && !c->busy && now < stop && started < most) {
                started++;
                start(c, now_ns());
            }
        }
        if (interval) {
            for (int tried = 0; due <= now && due < stop && started < most && tried < connections; tried++) {
                struct conn *c = &conns[idle_from++ % connections];
                if (c->busy) continue;
                start(c, due);
                started++;
                due += interval;
                tried = -1;
            }
        }
        int busy = 0;
        for (int i = 0; i < connections && !busy; i++) busy = conns[i].busy;
        if (!busy && (started >= most || now >= stop)) break;
        if (errors > 1000) break;
        if (now - last > STALL_NS) {
            note_error("no answer for 20 seconds", "", 0);
            break;
        }
    }
    double took = (now_ns() - begun) / 1e9;
    printf("{\"requests\":%zu,\"errors\":%zu,\"events\":%zu,\"seconds\":%.6f", finished, errors, events_total, took);
    percentiles("latency_us", samples, sample_count);
    percentiles("first_event_us", first_samples, first_count);
    printf(",\"first_error\":\"%s\"}\n", first_error);
    return 0;
}
