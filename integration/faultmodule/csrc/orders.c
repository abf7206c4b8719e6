#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fault.h"

static const char *file;
static struct counts *shared;
static _Atomic(struct orders *) now;
static _Atomic int64_t looked; /* when the file was looked at, ns */
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;

#define SPACE " \t"

/* How old a look at the file may be while nobody has changed the version. */
enum { LOOK_AGAIN = 5 * 1000 * 1000 };

static int64_t clock_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool number(const char *text, ul *n)
{
	char *end;
	if (text == NULL)
		return false;
	*n = strtoul(text, &end, 0);
	return end != text && *end == '\0' && *text != '-';
}

/* duration reads 250us, 5ms or 2s. */
static bool duration(const char *text, ul *ns)
{
	char *end;
	if (text == NULL || *text == '-')
		return false;
	ul n = strtoul(text, &end, 10);
	if (end == text)
		return false;
	*ns = strcmp(end, "us") == 0 ? n * 1000 : strcmp(end, "ms") == 0 ? n * 1000000 : strcmp(end, "s") == 0 ? n * 1000000000 : 0;
	return *ns != 0 || n == 0;
}

static bool label(const char *text, char *to, size_t size)
{
	return text != NULL && snprintf(to, size, "%s", text) < (int)size;
}

/* act reads what an order does: the first word is word, the rest comes from strtok_r. */
static bool act(struct order *o, const char *word, char **rest)
{
	const char *value = strtok_r(NULL, SPACE, rest);
	if (strcmp(word, "return") == 0 || strcmp(word, "after") == 0) {
		long code = value != NULL ? code_named(value) : -1;
		o->act = *word == 'r' ? RETURN : AFTER;
		o->value = (ul)code;
		return code >= 0;
	}
	if (strcmp(word, "stall") == 0) {
		o->act = STALL;
		return value == NULL || duration(value, &o->value);
	}
	if (strcmp(word, "delay") == 0) {
		o->act = DELAY;
		return duration(value, &o->value);
	}
	if (strcmp(word, "length") == 0 || strcmp(word, "flags") == 0) {
		o->act = *word == 'l' ? LENGTH : FLAGS;
		return number(value, &o->value);
	}
	o->act = DROP;
	return strcmp(word, "drop") == 0 && value == NULL;
}

/* order reads "FUNCTION {CONDITION} ACTION". */
static bool order(struct order *o, const char *word, char **rest)
{
	int f = function_named(word);
	if (f < 0 && strcmp(word, "*") != 0)
		return false;
	for (int i = 0; i < FUNCTIONS; i++)
		o->functions[i] = f < 0 ? kinds[i][0] == 's' : i == f;
	while ((word = strtok_r(NULL, SPACE, rest)) != NULL) {
		ul *n = strcmp(word, "nth") == 0 ? &o->nth : strcmp(word, "from") == 0 ? &o->from :
			strcmp(word, "to") == 0 ? &o->to : strcmp(word, "each") == 0 ? &o->each : strcmp(word, "id") == 0 ? &o->id : NULL;
		if (n != NULL) {
			if (!number(strtok_r(NULL, SPACE, rest), n) || *n == 0)
				return false;
		} else if (strcmp(word, "token") == 0) {
			if (!label(strtok_r(NULL, SPACE, rest), o->token, sizeof o->token))
				return false;
		} else {
			return act(o, word, rest) && strtok_r(NULL, SPACE, rest) == NULL;
		}
	}
	return false;
}

/* setting reads a line that is about the module, not about calls. */
static bool setting(struct orders *all, const char *word, const char *value)
{
	if (strcmp(word, "sessions") == 0)
		return number(value, &all->sessions);
	if (strcmp(word, "pin-tries") == 0)
		return number(value, &all->pin_tries);
	if (strcmp(word, "shuffle") == 0)
		return all->shuffle = value == NULL;
	if (strcmp(word, "read-write") == 0)
		return all->read_write = value == NULL;
	if (strcmp(word, "gone") == 0) {
		all->gone = true;
		return value == NULL || label(value, all->gone_token, sizeof all->gone_token);
	}
	if (strcmp(word, "forget") == 0 && all->forgotten < FORGOTTEN)
		return label(value, all->forget[all->forgotten++], sizeof all->forget[0]);
	return false;
}

/* kept returns the order of that line in before, unless all has it already. */
static struct order *kept(const struct orders *before, const struct orders *all, const char *line)
{
	for (int i = 0; before != NULL && i < before->count; i++)
		if (strcmp(before->order[i]->line, line) == 0 && !orders_have(all, before->order[i]))
			return before->order[i];
	return NULL;
}

static bool read_line(struct orders *all, const struct orders *before, char *line)
{
	char text[LINE], *rest;
	line[strcspn(line, "#\n")] = '\0';
	strcpy(text, line);
	const char *word = strtok_r(text, SPACE, &rest);
	if (word == NULL)
		return true;
	if (strncmp(word, "C_", 2) != 0 && strcmp(word, "*") != 0) {
		const char *value = strtok_r(NULL, SPACE, &rest);
		return setting(all, word, value) && (value == NULL || strtok_r(NULL, SPACE, &rest) == NULL);
	}
	if (all->count == ORDERS)
		return false;
	struct order *o = kept(before, all, line);
	if (o == NULL) {
		o = calloc(1, sizeof *o);
		o->line = strdup(line);
		if (!order(o, word, &rest))
			return false;
	}
	all->order[all->count++] = o;
	return true;
}

/* read_orders never frees what was read before: somebody may be using it. */
static struct orders *read_orders(const struct orders *before, const struct stat *st, uint64_t version)
{
	struct orders *all = calloc(1, sizeof *all);
	char line[LINE];
	int n = 0;
	all->version = version;
	all->mtime = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
	all->size = st->st_size;
	all->ino = (int64_t)st->st_ino;
	FILE *f = fopen(file, "re");
	while (f != NULL && fgets(line, sizeof line, f) != NULL) {
		n++;
		if (!read_line(all, before, line)) {
			fprintf(stderr, "faultmodule: %s:%d: not understood; every call is refused until it is corrected\n", file, n);
			all->bad = true;
		}
	}
	if (f != NULL)
		fclose(f);
	return all;
}

/* orders_now returns the orders of the file as it is now, or was a few
 * milliseconds ago if who changed it did not say so. */
struct orders *orders_now(void)
{
	struct orders *o = atomic_load(&now);
	uint64_t version = atomic_load(&shared->version);
	int64_t t = clock_ns();
	if (o != NULL && o->version == version && t - atomic_load(&looked) < LOOK_AGAIN)
		return o;
	pthread_mutex_lock(&reading);
	o = atomic_load(&now);
	version = atomic_load(&shared->version);
	struct stat st = {0};
	if (stat(file, &st) != 0)
		memset(&st, 0, sizeof st);
	if (o == NULL || o->version != version || o->size != st.st_size || o->ino != (int64_t)st.st_ino ||
	    o->mtime != (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec)
		atomic_store(&now, o = read_orders(o, &st, version));
	atomic_store(&looked, t);
	pthread_mutex_unlock(&reading);
	return o;
}

void orders_open(const char *path, struct counts *c)
{
	file = strdup(path);
	shared = c;
}

bool orders_have(const struct orders *o, const struct order *one)
{
	for (int i = 0; i < o->count; i++)
		if (o->order[i] == one)
			return true;
	return false;
}

/* order_hits counts the call and reports whether the order is about it. */
bool order_hits(struct order *o, int function, const char *token)
{
	if (!o->functions[function] || (o->token[0] != '\0' && strcmp(o->token, token) != 0))
		return false;
	uint64_t n = atomic_fetch_add(&o->met, 1) + 1;
	return (o->nth == 0 || n == o->nth) && n >= o->from && (o->to == 0 || n <= o->to) && (o->each == 0 || n % o->each == 0);
}
