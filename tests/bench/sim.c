/* An upstream that costs next to nothing: one thread, epoll, every answer prepared before it is asked for.
 *
 * It answers POST <prefix>/chat/completions. The prefix says how, so that one process serves every line of a run:
 *   /json/...                          one chat.completion of about 600 bytes
 *   /paced/<chunks>/<interval_us>/...  a stream, each event in a write of its own, one per interval
 *   /flooded/<chunks>/...              a stream, as many events per write as the socket takes
 *   /v1/...                            one of these by the model asked for: sim-paced and sim-flooded as the arguments
 *                                      of this program say (two such paths), JSON for any other
 * Any request without a length gets {}: routers ask after the health and the models of a server.
 * A stream is: a role event, <chunks> content events, a finish event, a usage event where the body asks for it with
 * "include_usage":true, and [DONE]; each event is one HTTP chunk, as real inference servers send them.
 * Prints "port <n>" and serves on 127.0.0.1 until it is killed or its standard input is closed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

#define MAX_FD 4096
#define IN_MAX (1 << 27)
#define MAX_SCRIPTS 16

static const char JSON_BODY[] =
    "{\"id\":\"chatcmpl-B7xQ2mPzK4vN8sLtR1yWdJ6h\",\"object\":\"chat.completion\",\"created\":1795309748,"
    "\"model\":\"sim-1\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The capital of "
    "France is Paris. It lies on the Seine in the north of the country, has been its seat of government for most of "
    "the last thousand years, and is home to a little over two million people.\",\"refusal\":null},"
    "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":312,\"completion_tokens\":46,"
    "\"total_tokens\":358,\"prompt_tokens_details\":{\"cached_tokens\":0},\"completion_tokens_details\":"
    "{\"reasoning_tokens\":0}},\"system_fingerprint\":\"fp_sim\"}";

/* The bytes of a stream after its head; ends[i] is where its i-th write ends. */
struct script {
    int chunks, usage, writes;
    char *bytes;
    size_t *ends, length, room;
};

struct conn {
    int open, paced, next_write, want_out;
    char *in;
    size_t in_length, in_room;
    const struct script *script; /* the stream being sent, or NULL */
    size_t sent, head_sent;
    const char *head;
    size_t head_length;
    int64_t due_ns, interval_ns;
};

static struct conn conns[MAX_FD];
static struct script scripts[MAX_SCRIPTS];
static int script_count, poll_fd, timer_fd, max_fd;
static const char *own_paced = "/paced/200/10000/v1", *own_flooded = "/flooded/2000/v1";
static char json_answer[2048];
static size_t json_length;

static const char SSE_HEAD[] =
    "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 01:09:08 GMT\r\nserver: sim\r\ncontent-type: text/event-stream; "
    "charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

static const char NOTHING[] = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void put(struct script *s, const char *data, size_t length) {
    if (s->length + length > s->room) {
        s->room = (s->length + length) * 2;
        if (!(s->bytes = realloc(s->bytes, s->room))) die("realloc");
    }
    memcpy(s->bytes + s->length, data, length);
    s->length += length;
}

static void event(struct script *s, const char *json, int ends_write) {
    char line[1024], frame[16];
    int n = snprintf(line, sizeof line, "data: %s\n\n", json);
    int f = snprintf(frame, sizeof frame, "%x\r\n", n);
    put(s, frame, f);
    put(s, line, n);
    put(s, "\r\n", 2);
    if (ends_write) s->ends[s->writes++] = s->length;
}

static const struct script *script_of(int chunks, int usage) {
    for (int i = 0; i < script_count; i++)
        if (scripts[i].chunks == chunks && scripts[i].usage == usage) return &scripts[i];
    if (script_count == MAX_SCRIPTS) return NULL;
    struct script *s = &scripts[script_count++];
    s->chunks = chunks;
    s->usage = usage;
    if (!(s->ends = calloc(chunks + 4, sizeof *s->ends))) die("calloc");
    static const char *words[] = {" The", " capital", " of", " France", " is", " Paris", ",", " on", " the", " Seine"};
    char json[900];
    const char *form = "{\"id\":\"chatcmpl-B7xQ2mPzK4vN8sLtR1yWdJ6h\",\"object\":\"chat.completion.chunk\","
                       "\"created\":1795309748,\"model\":\"sim-1\",\"system_fingerprint\":\"fp_sim\",\"choices\":"
                       "[{\"index\":0,\"delta\":%s,\"logprobs\":null,\"finish_reason\":%s}]}";
    snprintf(json, sizeof json, form, "{\"role\":\"assistant\",\"content\":\"\"}", "null");
    event(s, json, 1);
    for (int i = 0; i < chunks; i++) {
        char delta[64];
        snprintf(delta, sizeof delta, "{\"content\":\"%s\"}", words[i % 10]);
        snprintf(json, sizeof json, form, delta, "null");
        event(s, json, 1);
    }
    snprintf(json, sizeof json, form, "{}", "\"stop\"");
    event(s, json, 1);
    if (usage) {
        snprintf(json, sizeof json,
                 "{\"id\":\"chatcmpl-B7xQ2mPzK4vN8sLtR1yWdJ6h\",\"object\":\"chat.completion.chunk\",\"created\":"
                 "1795309748,\"model\":\"sim-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":312,"
                 "\"completion_tokens\":%d,\"total_tokens\":%d}}",
                 chunks, 312 + chunks);
        event(s, json, 1);
    }
    event(s, "[DONE]", 0);
    put(s, "0\r\n\r\n", 5);
    s->ends[s->writes++] = s->length;
    return s;
}

static void shut(int fd) {
    struct conn *c = &conns[fd];
    close(fd);
    free(c->in);
    memset(c, 0, sizeof *c);
}

static void want_out(int fd, int yes) {
    if (conns[fd].want_out == yes) return;
    conns[fd].want_out = yes;
    struct epoll_event e = {.events = EPOLLIN | (yes ? EPOLLOUT : 0), .data.fd = fd};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, fd, &e);
}

/* Sends what may be sent now. Returns 0 when the connection is gone. */
static int advance(int fd) {
    struct conn *c = &conns[fd];
    while (c->head || c->script) {
        size_t limit = 0;
        if (!c->head) {
            limit = c->paced ? c->script->ends[c->next_write] : c->script->length;
            if (c->paced && now_ns() < c->due_ns) return 1;
        }
        const char *from = c->head ? c->head + c->head_sent : c->script->bytes + c->sent;
        size_t length = c->head ? c->head_length - c->head_sent : limit - c->sent;
        ssize_t n = send(fd, from, length, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                want_out(fd, 1);
                return 1;
            }
            shut(fd);
            return 0;
        }
        if (c->head) {
            c->head_sent += n;
            if (c->head_sent == c->head_length) c->head = NULL;
            continue;
        }
        c->sent += n;
        if (c->sent < limit) continue;
        if (c->paced) {
            c->due_ns += c->interval_ns;
            if (!c->next_write++) c->due_ns += rand() % c->interval_ns; /* streams of one burst drift apart */
        }
        if (c->sent == c->script->length) c->script = NULL;
    }
    want_out(fd, 0);
    return 1;
}

/* Answers the request at the start of the buffer if it is whole. Returns 1 if it did, 0 if not, -1 if it is bad. */
static int answer(int fd) {
    struct conn *c = &conns[fd];
    char *end = memmem(c->in, c->in_length, "\r\n\r\n", 4);
    if (!end) return c->in_length > 65536 ? -1 : 0;
    size_t head = end + 4 - c->in;
    *end = 0;
    const char *length_at = strcasestr(c->in, "\r\ncontent-length:");
    *end = '\r';
    size_t body = length_at ? strtoul(length_at + 17, NULL, 10) : 0;
    if (c->in_length < head + body) return 0;
    int usage = memmem(c->in + head, body, "\"include_usage\":true", 20) != NULL;
    int chunks = 0;
    long interval_us = 0;
    c->sent = c->head_sent = c->next_write = 0;
    const char *path = c->in + 5;
    if (!strncmp(c->in, "POST /v1/", 9)) {
        path = "/json/";
        if (memmem(c->in + head, body, "\"sim-paced\"", 11)) path = own_paced;
        if (memmem(c->in + head, body, "\"sim-flooded\"", 13)) path = own_flooded;
    }
    if (!length_at) {
        path = NULL;
    } else if (strncmp(c->in, "POST ", 5)) {
        return -1;
    } else if (sscanf(path, "/paced/%d/%ld/", &chunks, &interval_us) == 2 && interval_us > 0) {
        c->paced = 1;
        c->interval_ns = interval_us * 1000;
        c->due_ns = now_ns();
    } else if (sscanf(path, "/flooded/%d/", &chunks) == 1) {
        c->paced = 0;
    } else if (strncmp(path, "/json/", 6) != 0) {
        return -1;
    }
    if (!path) {
        c->head = NOTHING;
        c->head_length = sizeof NOTHING - 1;
    } else if (chunks > 0) {
        if (!(c->script = script_of(chunks, usage))) return -1;
        c->head = SSE_HEAD;
        c->head_length = sizeof SSE_HEAD - 1;
    } else {
        c->head = json_answer;
        c->head_length = json_length;
    }
    memmove(c->in, c->in + head + body, c->in_length - head - body);
    c->in_length -= head + body;
    return 1;
}

static void readable(int fd) {
    struct conn *c = &conns[fd];
    for (;;) {
        if (c->in_length == c->in_room) {
            c->in_room = c->in_room ? c->in_room * 2 : 8192;
            if (c->in_room > IN_MAX || !(c->in = realloc(c->in, c->in_room))) {
                shut(fd);
                return;
            }
        }
        size_t room = c->in_room - c->in_length;
        ssize_t n = recv(fd, c->in + c->in_length, room, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            shut(fd);
            return;
        }
        if (n < 0) break;
        c->in_length += n;
        if ((size_t)n < room) break;
    }
    while (!c->head && !c->script && c->in_length) {
        int done = answer(fd);
        if (done < 0) {
            static const char bad[] = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            (void)!send(fd, bad, sizeof bad - 1, MSG_NOSIGNAL);
            shut(fd);
            return;
        }
        if (!done || !advance(fd)) return;
    }
}

static void arm(void) {
    int64_t first = 0;
    for (int fd = 0; fd <= max_fd; fd++)
        if (conns[fd].script && conns[fd].paced && !conns[fd].want_out && (!first || conns[fd].due_ns < first))
            first = conns[fd].due_ns;
    struct itimerspec t = {.it_value = {first / 1000000000, first % 1000000000}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

int main(int argc, char **argv) {
    if (argc == 3) own_paced = argv[1], own_flooded = argv[2];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1000UL);
    json_length = snprintf(json_answer, sizeof json_answer,
                           "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 01:09:08 GMT\r\nserver: sim\r\ncontent-type: "
                           "application/json\r\ncontent-length: %zu\r\n\r\n%s",
                           sizeof JSON_BODY - 1, JSON_BODY);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    poll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int watched[] = {listener, timer_fd, 0};
    for (int i = 0; i < 3; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = watched[i]};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, watched[i], &e);
    }
    struct epoll_event events[256];
    for (;;) {
        int n = epoll_wait(poll_fd, events, 256, -1), paced = 0;
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) {
                char rest[64];
                if (read(0, rest, sizeof rest) <= 0) return 0;
            } else if (fd == listener) {
                int new_fd;
                while ((new_fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (new_fd >= MAX_FD) {
                        close(new_fd);
                        continue;
                    }
                    setsockopt(new_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    conns[new_fd].open = 1;
                    if (new_fd > max_fd) max_fd = new_fd;
                    struct epoll_event e = {.events = EPOLLIN, .data.fd = new_fd};
                    epoll_ctl(poll_fd, EPOLL_CTL_ADD, new_fd, &e);
                }
            } else if (fd == timer_fd) {
                uint64_t ticks;
                (void)!read(timer_fd, &ticks, sizeof ticks);
                int64_t now = now_ns();
                for (int other = 0; other <= max_fd; other++)
                    if (conns[other].script && conns[other].paced && conns[other].due_ns <= now) advance(other);
                paced = 1;
            } else if (conns[fd].open) {
                if ((events[i].events & EPOLLOUT) && !advance(fd)) continue;
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(fd);
                paced |= conns[fd].paced;
            }
        }
        if (paced) arm();
    }
}
