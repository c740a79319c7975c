/* A bounded WebSocket load generator (the client's side of RFC 6455, as much as it needs).
 *
 *   cc -O2 -o load load.c
 *   load -p PORT -P /path -m MODE [-c CONNECTIONS] [-d DEPTH] [-t SECONDS] [-w WARM_UP] [-k PID]
 *
 * Modes:
 *   echo   keep DEPTH messages in flight on each connection; -j sends typed JSON
 *   bcast  the first connection sends DEPTH messages, all receive them, and so on
 *   push   say "go", then read as fast as it comes
 *   rate   connect, close, and again, on DEPTH connections at a time
 *   idle   hold the connections until standard input ends; -z offers compression
 *   fair   DEPTH messages in flight on the first connection, one a second on each of the others
 *
 * What comes back is compared with what must come back. It prints one line of JSON. It uses one
 * core and loopback, and is bounded: 30 seconds, 12,000 connections.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define KINDS 5
#define MAX_LATENCIES 4000000

typedef struct {
    int fd, open, flight, next, expected, skip, state;
    uint64_t due; /* fair: when the next message is to be sent */
    unsigned char *in, *out;
    int in_len, in_cap, out_len, out_cap;
    uint64_t *sent; /* a ring: when each message in flight was sent */
    int sent_head, sent_len;
} Conn;

static int port = 9000, count = 1, depth = 1, json, deflate_offered, engineio, pid;
static double seconds = 1.0, warm = 0.3;
static const char *path = "/", *mode = "echo";

/* What is sent: frames that are built once. What must come back: the payload, or fields of it. */
static const char *JSON[KINDS] = {
    "{\"type\":\"chat\",\"room\":\"general\",\"user\":\"alice-0042\",\"text\":\"hello everyone, this is a chat message of usual length\",\"ts\":1700000000.125,\"seq\":123456}",
    "{\"type\":\"join\",\"room\":\"general\",\"user\":\"alice-0042\",\"caps\":[\"audio\",\"video\",\"screen\"],\"client\":\"web/7.12.0 (linux)\",\"ts\":1700000000.125,\"seq\":123457}",
    "{\"type\":\"move\",\"obj\":\"player-17\",\"x\":1024.5,\"y\":-733.25,\"z\":12.0,\"vx\":0.125,\"vy\":-0.5,\"vz\":0.0,\"grounded\":true,\"ts\":1700000000.125,\"seq\":123458}",
    "{\"type\":\"order\",\"sku\":\"ABCD-123456\",\"qty\":3,\"price\":19.99,\"ccy\":\"EUR\",\"side\":\"buy\",\"note\":\"leave at the door please\",\"ts\":1700000000.125,\"seq\":123459}",
    "{\"type\":\"ack\",\"ref\":123456,\"ok\":true,\"code\":200,\"detail\":\"accepted by the matching engine in 42 microseconds\",\"ts\":1700000000.125,\"seq\":123460}"};
static const char *KIND[KINDS] = {"chat", "join", "move", "order", "ack"};
static const char *TEXT[KINDS] = {
    "hello everyone, this is a chat message of usual length", "web/7.12.0 (linux)", "player-17",
    "leave at the door please", "accepted by the matching engine in 42 microseconds"};
static unsigned char *frames[KINDS];
static int frame_len[KINDS], kinds = 1, echo_len;
static char echo_payload[256];

static int ep;
static uint64_t messages, failures, wrong, work_ns;
static uint32_t *latencies;
static size_t latency_count;
static int recording;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void die(const char *what) {
    printf("{\"error\":\"%s: %s\"}\n", what, strerror(errno));
    exit(1);
}

/* -- CPU time of the server: of its threads, and of its children */

static int tree[64], tree_len;

static int parent_of(int p) {
    char name[64], text[512];
    snprintf(name, sizeof name, "/proc/%d/stat", p);
    FILE *f = fopen(name, "r");
    if (!f) return -1;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    char *after = strrchr(text, ')'), state;
    int parent = -1;
    if (after) sscanf(after + 2, "%c %d", &state, &parent);
    return parent;
}

static void find_tree(void) {
    tree[tree_len++] = pid;
    for (int i = 0; i < tree_len; i++) {
        DIR *d = opendir("/proc");
        struct dirent *e;
        while (d && (e = readdir(d)))
            if (atoi(e->d_name) > 0 && parent_of(atoi(e->d_name)) == tree[i] && tree_len < 64)
                tree[tree_len++] = atoi(e->d_name);
        if (d) closedir(d);
    }
}

static uint64_t server_cpu(void) {
    uint64_t sum = 0;
    for (int i = 0; i < tree_len; i++) {
        char name[64];
        snprintf(name, sizeof name, "/proc/%d/task", tree[i]);
        DIR *d = opendir(name);
        struct dirent *e;
        while (d && (e = readdir(d))) {
            char file[400];
            unsigned long long ran = 0;
            if (e->d_name[0] == '.') continue;
            snprintf(file, sizeof file, "/proc/%d/task/%s/schedstat", tree[i], e->d_name);
            FILE *f = fopen(file, "r");
            if (f && fscanf(f, "%llu", &ran) == 1) sum += ran;
            if (f) fclose(f);
        }
        if (d) closedir(d);
    }
    return sum;
}

/* -- frames */

static int build(unsigned char **to, int first, const void *payload, int size) {
    static const unsigned char key[4] = {0x37, 0xfa, 0x21, 0x3d};
    unsigned char *b = malloc(size + 14);
    int head = 2;
    b[0] = first;
    if (size < 126) {
        b[1] = 0x80 | size;
    } else {
        b[1] = 0x80 | 126;
        b[2] = size >> 8;
        b[3] = size;
        head = 4;
    }
    memcpy(b + head, key, 4);
    for (int i = 0; i < size; i++) b[head + 4 + i] = ((unsigned char *)payload)[i] ^ key[i & 3];
    *to = b;
    return head + 4 + size;
}

static void put(Conn *c, const void *data, int size) {
    if (c->out_len + size > c->out_cap) {
        c->out_cap = (c->out_len + size) * 2;
        c->out = realloc(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, data, size);
    c->out_len += size;
}

static void want(Conn *c, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

static void flush(Conn *c) {
    int at = 0;
    while (at < c->out_len) {
        int n = send(c->fd, c->out + at, c->out_len - at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) c->open = 0, at = c->out_len;
        if (n < 0) break;
        at += n;
    }
    if (at < c->out_len) want(c, EPOLLIN | EPOLLOUT);
    memmove(c->out, c->out + at, c->out_len - at);
    c->out_len -= at;
}

static void send_message(Conn *c, uint64_t t) {
    put(c, frames[c->next], frame_len[c->next]);
    c->next = (c->next + 1) % kinds;
    if (c->sent) c->sent[(c->sent_head + c->sent_len++) % depth] = t;
    c->flight++;
}

static void send_raw(Conn *c, const char *text) {
    unsigned char *frame;
    int size = build(&frame, 0x81, text, strlen(text));
    put(c, frame, size);
    free(frame);
}

/* -- what comes back */

static int has_field(const char *text, int size, const char *name, const char *value) {
    char key[32];
    int key_len = snprintf(key, sizeof key, "\"%s\":", name);
    const char *at = memmem(text, size, key, key_len);
    if (!at) return 0;
    at += key_len;
    while (at < text + size && *at == ' ') at++;
    return text + size - at >= (int)strlen(value) && !memcmp(at, value, strlen(value));
}

static int right(Conn *c, const char *payload, int size) {
    if (!json) return size == echo_len && !memcmp(payload, echo_payload, size);
    int i = c->expected;
    char quoted[128], kind[16], number[16];
    c->expected = (i + 1) % kinds;
    snprintf(quoted, sizeof quoted, "\"%s\"", TEXT[i]);
    snprintf(kind, sizeof kind, "\"%s\"", KIND[i]);
    snprintf(number, sizeof number, "%d", 123456 + i);
    return has_field(payload, size, "kind", kind) && has_field(payload, size, "seq", number) &&
           has_field(payload, size, "ok", "true") && has_field(payload, size, "text", quoted);
}

static int receive(Conn *c, uint64_t t) {
    int at = 0, got = 0;
    for (;;) {
        int have = c->in_len - at, head = 2;
        unsigned char *b = c->in + at;
        if (have < 2) break;
        int64_t size = b[1] & 127;
        if (size == 126) {
            if (have < 4) break;
            size = b[2] << 8 | b[3];
            head = 4;
        } else if (size == 127) {
            if (have < 10) break;
            size = 0;
            for (int i = 0; i < 8; i++) size = size << 8 | b[2 + i];
            head = 10;
        }
        if (have < head + size) break;
        int opcode = b[0] & 15;
        if (opcode == 8) {
            c->open = 0;
        } else if (opcode == 9) {
            unsigned char *pong;
            int n = build(&pong, 0x8A, b + head, size);
            put(c, pong, n);
            free(pong);
        } else if (opcode < 3 && c->skip > 0) {
            c->skip--;
        } else if (opcode < 3 && engineio && size == 1 && b[head] == '2') {
            send_raw(c, "3"); /* Engine.IO's own ping */
        } else if (opcode < 3) {
            got++;
            if (!deflate_offered && !right(c, (char *)b + head, size)) wrong++;
            if (c->sent_len) {
                uint64_t took = t - c->sent[c->sent_head];
                c->sent_head = (c->sent_head + 1) % depth;
                c->sent_len--;
                if (recording && latency_count < MAX_LATENCIES)
                    latencies[latency_count++] = took > UINT32_MAX ? UINT32_MAX : took;
            }
            c->flight--;
        }
        at += head + size;
    }
    memmove(c->in, c->in + at, c->in_len - at);
    c->in_len -= at;
    return got;
}

static int read_some(Conn *c, int room) {
    if (c->in_cap - c->in_len < room) {
        c->in_cap = c->in_len + room;
        c->in = realloc(c->in, c->in_cap + 1);
    }
    int n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (n <= 0) return -1;
    c->in_len += n;
    return n;
}

/* -- connecting */

static char request[1024];

static void build_request(void) {
    snprintf(request, sizeof request,
             "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
             "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
             "Sec-WebSocket-Version: 13\r\n%s\r\n",
             path, port,
             deflate_offered
                 ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
                 : "");
}

static int dial(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fd < 0 || connect(fd, (void *)&address, sizeof address) < 0) die("connect");
    if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0) die("request");
    return fd;
}

static int answered(Conn *c) {
    unsigned char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(c->in, "HTTP/1.1 101", 12)) errno = EPROTO, die("handshake refused");
    int size = end - c->in + 4;
    memmove(c->in, c->in + size, c->in_len - size);
    c->in_len -= size;
    return 1;
}

static Conn *connect_all(void) {
    Conn *all = calloc(count, sizeof *all);
    for (int first = 0; first < count; first += 50) {
        int last = first + 50 < count ? first + 50 : count;
        for (int i = first; i < last; i++) all[i].fd = dial();
        for (int i = first; i < last; i++) {
            Conn *c = &all[i];
            do {
                if (read_some(c, 4096) < 0) die("lost in the handshake");
            } while (!answered(c));
            c->open = 1;
            if (strcmp(mode, "idle")) c->sent = calloc(depth, sizeof *c->sent);
            if (engineio) { /* Socket.IO: join the default namespace, skip its two greetings */
                c->skip = 2;
                send_raw(c, "40");
                flush(c);
                while (receive(c, 0), c->skip > 0)
                    if (read_some(c, 4096) < 0) die("lost in the greeting");
            }
        }
    }
    for (int i = 0; i < count; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &all[i]};
        fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(ep, EPOLL_CTL_ADD, all[i].fd, &e);
    }
    return all;
}

/* -- measuring */

static uint64_t began, cpu_before;

static void begin(void) {
    recording = 1;
    latency_count = messages = failures = wrong = work_ns = 0;
    cpu_before = server_cpu();
    began = now();
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double p) {
    return latency_count ? latencies[(size_t)((latency_count - 1) * p)] / 1e3 : 0;
}

static int report(double units) {
    double s = (now() - began) * 1e-9, cpu = (server_cpu() - cpu_before) * 1e-9;
    qsort(latencies, latency_count, sizeof *latencies, compare);
    printf("{\"units\":%.0f,\"seconds\":%.4f,\"rate\":%.1f,\"cpu_us\":%.4f,\"p50_us\":%.1f,"
           "\"p99_us\":%.1f,\"server_core\":%.3f,\"load_core\":%.3f,\"failures\":%llu,"
           "\"wrong\":%llu}\n",
           units, s, units / s, units ? cpu * 1e6 / units : 0, percentile(0.5), percentile(0.99),
           cpu / s, work_ns * 1e-9 / s, (unsigned long long)failures, (unsigned long long)wrong);
    return wrong ? 3 : 0;
}

/* -- modes */

static int run_rate(void) {
    Conn *all = calloc(depth, sizeof *all);
    unsigned char *close_frame, code[2] = {0x03, 0xe8};
    int close_len = build(&close_frame, 0x88, code, 2);
    uint64_t start = now() + warm * 1e9, done = 0;
    struct epoll_event events[1024];
    for (int i = 0; i < depth; i++) all[i].fd = -1;
    for (;;) {
        uint64_t t = now();
        if (!recording && t >= start) begin(), done = 0;
        if (recording && t >= began + seconds * 1e9) break;
        for (int i = 0; i < depth; i++) {
            Conn *c = &all[i];
            if (c->fd >= 0) continue;
            c->fd = dial();
            c->in_len = 0;
            c->state = 1;
            fcntl(c->fd, F_SETFL, O_NONBLOCK);
            struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
            epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
        }
        work_ns += now() - t;
        int n = epoll_wait(ep, events, 1024, 0);
        t = now();
        for (int k = 0; k < n; k++) {
            Conn *c = events[k].data.ptr;
            int over = read_some(c, 4096) < 0;
            if (over && c->state == 1) failures++;
            if (!over && c->state == 1 && answered(c)) {
                c->state = 2;
                if (send(c->fd, close_frame, close_len, MSG_NOSIGNAL) < 0) failures++;
                done++;
            }
            for (int at = 0; c->state == 2 && !over && c->in_len - at >= 2;) {
                if ((c->in[at] & 15) == 8) over = 1;
                at += 2 + (c->in[at + 1] & 127); /* nothing long comes before the close */
            }
            if (over) close(c->fd), c->fd = -1;
        }
        if (n > 0) work_ns += now() - t;
    }
    return report(done);
}

static int run_idle(void) {
    Conn *all = connect_all();
    struct epoll_event events[1024];
    uint64_t limit = now() + 60000000000ull;
    char byte;
    int lost = 0;
    printf("ready\n");
    fflush(stdout);
    fcntl(0, F_SETFL, O_NONBLOCK);
    while (now() < limit && read(0, &byte, 1) != 0) {
        int n = epoll_wait(ep, events, 1024, 50);
        for (int k = 0; k < n; k++) {
            Conn *c = events[k].data.ptr;
            if (read_some(c, 4096) < 0) {
                c->open = 0;
                epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
            } else {
                receive(c, 0);
                if (c->out_len) flush(c);
            }
        }
    }
    for (int i = 0; i < count; i++) lost += !all[i].open;
    printf("{\"failures\":%d}\n", lost);
    return 0;
}

static int run_messages(void) {
    Conn *all = connect_all();
    struct epoll_event events[1024];
    int fair = !strcmp(mode, "fair"), bcast = !strcmp(mode, "bcast"), push = !strcmp(mode, "push");
    int64_t left = (int64_t)count * depth;
    uint64_t t = now(), last = t, round = t, start;
    if (bcast) usleep(200000), round = now();
    for (int i = 0; i < count; i++) {
        Conn *c = &all[i];
        if (push)
            send_raw(c, engineio ? "42[\"go\",\"go\"]" : "go");
        else if (fair && i > 0)
            c->due = t + (uint64_t)(i * 1e9 / count);
        else if (!bcast || i == 0)
            for (int d = 0; d < depth; d++) send_message(c, t);
        flush(c);
    }
    start = now() + warm * 1e9;
    for (;;) {
        t = now();
        if (!recording && t >= start) begin();
        if (recording && t >= began + seconds * 1e9) break;
        if (t - last > 5000000000ull) errno = ETIMEDOUT, die("stalled");
        for (int i = 1; fair && i < count; i++)
            if (t >= all[i].due) {
                all[i].due += 1000000000ull;
                if (all[i].flight == 0) send_message(&all[i], now()), flush(&all[i]);
            }
        int n = epoll_wait(ep, events, 1024, 0);
        uint64_t work = now();
        for (int k = 0; k < n; k++) {
            Conn *c = events[k].data.ptr;
            if (events[k].events & EPOLLOUT) want(c, EPOLLIN), flush(c);
            if (!(events[k].events & ~EPOLLOUT)) continue;
            if (read_some(c, 65536) < 0) {
                failures++;
                epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
                continue;
            }
            t = now();
            size_t known = latency_count;
            int got = receive(c, t);
            if (fair && c == all) latency_count = known; /* only the others count */
            messages += got;
            if (got) last = t;
            if (bcast) {
                left -= got;
                if (left <= 0) {
                    if (recording) latencies[latency_count++] = t - round;
                    left = (int64_t)count * depth;
                    round = now();
                    for (int d = 0; d < depth; d++) send_message(all, round);
                    flush(all);
                }
            } else if (depth > 1 && !push && !fair) {
                /* the next batch when the whole one is answered */
                for (int d = c->flight ? depth : 0; d < depth; d++) send_message(c, t);
            } else if (!push && (!fair || c == all)) {
                for (int d = 0; d < got; d++) send_message(c, t);
            }
            if (c->out_len) flush(c);
        }
        if (n > 0) work_ns += now() - work;
    }
    return report(messages);
}

int main(int argc, char **argv) {
    int option, size = 64;
    while ((option = getopt(argc, argv, "p:P:m:c:d:t:w:k:jze")) > 0) switch (option) {
            case 'p': port = atoi(optarg); break;
            case 'P': path = optarg; break;
            case 'm': mode = optarg; break;
            case 'c': count = atoi(optarg); break;
            case 'd': depth = atoi(optarg); break;
            case 't': seconds = atof(optarg); break;
            case 'w': warm = atof(optarg); break;
            case 'k': pid = atoi(optarg); break;
            case 'j': json = 1; break;
            case 'z': deflate_offered = 1; break;
            case 'e': engineio = 1; break;
            default: return 2;
        }
    if (seconds > 30 || count > 12000) return fprintf(stderr, "out of bounds\n"), 2;
    if (pid) find_tree();
    ep = epoll_create1(0);
    latencies = malloc(MAX_LATENCIES * sizeof *latencies);
    kinds = json ? KINDS : 1;
    for (int i = 0; i < kinds; i++) {
        char text[512], letters[65] = "";
        for (int n = 0; n < size; n++) letters[n] = 'a' + n % 26;
        if (json && engineio)
            snprintf(text, sizeof text, "42[\"%s\",%s]", KIND[i], JSON[i]);
        else if (json)
            snprintf(text, sizeof text, "%s", JSON[i]);
        else if (engineio)
            snprintf(text, sizeof text, "42[\"%s\",\"%s\"]", !strcmp(mode, "bcast") ? "bcast" : "echo", letters);
        else
            snprintf(text, sizeof text, "%s", letters);
        frame_len[i] = build(&frames[i], 0x81, text, strlen(text));
        if (!json) echo_len = snprintf(echo_payload, sizeof echo_payload, "%s", text);
    }
    if (engineio && !strcmp(mode, "push"))
        echo_len = snprintf(echo_payload, sizeof echo_payload, "42[\"push\",\"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl\"]");
    build_request();
    if (!strcmp(mode, "rate")) return run_rate();
    if (!strcmp(mode, "idle")) return run_idle();
    return run_messages();
}
