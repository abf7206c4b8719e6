#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fault.h"

struct list *real;
struct counts *counts;

/* Held for reading by every call into the real module, for writing by what no
 * other call may see half done: SoftHSM crashes when sessions in use are
 * closed. Calls that stall or are delayed do not hold it. */
static pthread_rwlock_t calling;

static ul forward(int i, const ul *v) { return ((fn)real->f[i])(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]); }

static void pause_ns(ul ns)
{
	struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
	nanosleep(&t, NULL);
}

/* stall waits for the time that the order says, or until it is taken back. */
static void stall(const struct order *o)
{
	if (o->value != 0) {
		pause_ns(o->value);
		return;
	}
	while (orders_have(orders_now(), o))
		pause_ns(500 * 1000);
}

static void drop(const char *token)
{
	pthread_rwlock_wrlock(&calling);
	sessions_drop(token);
	pthread_rwlock_unlock(&calling);
}

static bool is_gone(const struct orders *o, const char *token)
{
	return o->gone && (o->gone_token[0] == '\0' || strcmp(o->gone_token, token) == 0);
}

/* remove_token closes the sessions of a token that is not there any more. */
static ul remove_token(const char *token, bool has_session)
{
	if (has_session)
		drop(token);
	return has_session ? CKR_DEVICE_REMOVED : CKR_TOKEN_NOT_PRESENT;
}

/* leave_out takes the slots without a token out of a C_GetSlotList(CK_TRUE, ...). */
static void leave_out(const struct orders *o, ul *slots, ul *n)
{
	char token[LABEL + 1];
	ul kept = 0;
	for (ul i = 0; i < *n; i++) {
		label_of_slot(slots[i], token);
		if (!is_gone(o, token))
			slots[kept++] = slots[i];
	}
	*n = kept;
}

/* find passes on only what is not forgotten. */
static ul find(const struct orders *o, const ul *v)
{
	ul *found = (ul *)v[1], *n = (ul *)v[3], rv, kept = 0;
	do {
		if ((rv = forward(FIND, v)) != CKR_OK || *n == 0)
			return rv;
		for (ul i = 0; i < *n; i++)
			if (!object_forgotten(o, v[0], found[i]))
				found[kept++] = object_virtual(found[i]);
	} while (kept == 0);
	*n = kept;
	return rv;
}

static ul login(const struct orders *o, const ul *v)
{
	if (o->pin_tries != 0 && v[1] == 1 && counts->wrong >= o->pin_tries)
		return CKR_PIN_LOCKED;
	ul rv = forward(LOGIN, v);
	if (v[1] == 1 && rv == CKR_PIN_INCORRECT)
		atomic_fetch_add(&counts->wrong, 1);
	if (v[1] == 1 && rv == CKR_OK) {
		counts->wrong = 0;
		objects_number(v[0]);
	}
	return rv;
}

/* pin_flags are CKF_USER_PIN_COUNT_LOW, _FINAL_TRY and _LOCKED. */
static ul pin_flags(const struct orders *o)
{
	ul wrong = counts->wrong;
	if (o->pin_tries == 0 || wrong == 0)
		return 0;
	return 0x10000 | (wrong >= o->pin_tries ? 0x40000 : wrong + 1 == o->pin_tries ? 0x20000 : 0);
}

static ul inside(int i, ul *v, const struct orders *o);

/* inner calls the real module, with its own handles. v is changed. Calls over
 * one session follow each other: SoftHSM crashes when a caller goes on using a
 * number that was given to another one after a reset. */
static ul inner(int i, ul *v, const struct orders *o)
{
	if (kinds[i][0] != 's')
		return inside(i, v, o);
	struct session *s = session_of(v[0]);
	if (s == NULL)
		return CKR_SESSION_HANDLE_INVALID;
	pthread_mutex_lock(&s->calling);
	ul rv = inside(i, v, o);
	pthread_mutex_unlock(&s->calling);
	return rv;
}

static ul inside(int i, ul *v, const struct orders *o)
{
	const char *kind = kinds[i];
	ul session = v[0];
	if (kind[0] == 's') {
		struct session *s = session_of(session);
		if (s == NULL)
			return CKR_SESSION_HANDLE_INVALID;
		v[0] = s->real;
	}
	for (int a = 1; kind[a] != '\0'; a++) {
		if (kind[a] != 'h' || v[a] == 0)
			continue;
		ul object = object_real(v[a]);
		if (object == 0 || object_forgotten(o, v[0], object))
			return i >= COPY && i <= SET_ATTRIBUTE ? CKR_OBJECT_HANDLE_INVALID : CKR_KEY_HANDLE_INVALID;
		v[a] = object;
	}
	switch (i) {
	case FIND:
		return find(o, v);
	case LOGIN:
		return login(o, v);
	case OPEN_SESSION:
		if (o->read_write && (v[1] & 2) == 0) /* CKF_RW_SESSION */
			return CKR_FUNCTION_FAILED;
		if (o->sessions != 0 && counts->sessions >= o->sessions)
			return CKR_SESSION_COUNT;
	}
	ul rv = forward(i, v);
	if (rv != CKR_OK)
		return rv;
	switch (i) {
	case OPEN_SESSION:
		*(ul *)v[4] = session_add(*(ul *)v[4], v[0]);
		break;
	case CLOSE_SESSION:
		session_remove(session);
		break;
	case CLOSE_ALL:
		sessions_clear(&v[0]);
		break;
	case FINALIZE:
		sessions_clear(NULL);
		break;
	case INITIALIZE:
		objects_reset(o->shuffle);
		break;
	case SLOT_LIST:
		if (o->gone && (v[0] & 0xff) != 0 && v[1] != 0)
			leave_out(o, (ul *)v[1], (ul *)v[2]);
		break;
	case TOKEN_INFO: /* 32+32+16+16 bytes, flags */
		*(ul *)(v[1] + 96) |= pin_flags(o);
		break;
	}
	for (int a = 1; kind[a] != '\0'; a++)
		if (kind[a] == 'H')
			*(ul *)v[a] = object_virtual(*(ul *)v[a]);
	return rv;
}

/* alone reports whether no other call may be in the real module meanwhile. */
static bool alone(int i) { return i == INITIALIZE || i == FINALIZE || i == CLOSE_ALL || i == LOGIN; }

static ul outer(int i, ul *v)
{
	struct orders *o = orders_now();
	if (asks_size(i, v)) {
		pthread_rwlock_rdlock(&calling);
		ul rv = o->bad ? CKR_FUNCTION_REJECTED : inner(i, v, o);
		pthread_rwlock_unlock(&calling);
		return rv;
	}
	atomic_fetch_add(&counts->calls[i], 1);
	if (o->bad)
		return CKR_FUNCTION_REJECTED;
	char token[LABEL + 1] = "";
	bool has_session = false;
	if (o->count > 0 || o->gone) {
		pthread_rwlock_rdlock(&calling);
		struct session *s = kinds[i][0] == 's' ? session_of(v[0]) : NULL;
		if (kinds[i][0] == 't')
			label_of_slot(v[0], token);
		else if ((has_session = s != NULL))
			memcpy(token, s->token, sizeof token);
		pthread_rwlock_unlock(&calling);
	}
	if ((has_session || kinds[i][0] == 't') && is_gone(o, token)) {
		atomic_fetch_add(&counts->faults[i], 1);
		return remove_token(token, has_session);
	}
	ul instead = 0, after = 0, flags = 0, length = 0;
	bool fault = false, replaced = false, changed = false, wrong_length = false;
	for (int n = 0; n < o->count && !replaced; n++) {
		struct order *one = o->order[n];
		if (!order_hits(one, i, token))
			continue;
		fault = fault || one->act != DELAY;
		switch (one->act) {
		case RETURN: replaced = true; instead = one->value; break;
		case AFTER: changed = true; after = one->value; break;
		case STALL: stall(one); break;
		case DELAY: pause_ns(one->value); break;
		case LENGTH: wrong_length = true; length = one->value; break;
		case FLAGS: flags |= one->value; break;
		case DROP: drop(one->token); break;
		}
	}
	if (fault)
		atomic_fetch_add(&counts->faults[i], 1);
	if (replaced)
		return instead;
	const char *l = strchr(kinds[i], 'l');
	ul *told = l != NULL ? (ul *)v[l - kinds[i]] : NULL;
	void *info = (void *)v[1];
	if (alone(i))
		pthread_rwlock_wrlock(&calling);
	else
		pthread_rwlock_rdlock(&calling);
	ul rv = inner(i, v, o);
	pthread_rwlock_unlock(&calling);
	if (rv == CKR_OK && wrong_length && told != NULL)
		*told = length;
	if (rv == CKR_OK && i == TOKEN_INFO)
		*(ul *)((char *)info + 96) |= flags;
	return changed ? after : rv;
}

static ul call(int i, ul *v)
{
	atomic_fetch_add(&counts->inside[i], 1);
	ul rv = outer(i, v);
	atomic_fetch_sub(&counts->inside[i], 1);
	return rv;
}

#define EACH(X) \
	X(0) X(1) X(2) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) \
	X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31) X(32) X(33) X(34) X(35) X(36) X(37) X(38) X(39) X(40) X(41) X(42) X(43) \
	X(44) X(45) X(46) X(47) X(48) X(49) X(50) X(51) X(52) X(53) X(54) X(55) X(56) X(57) X(58) X(59) X(60) X(61) X(62) X(63) X(64) \
	X(65) X(66) X(67)
#define WRAPPER(i) \
	static ul call_##i(ul a, ul b, ul c, ul d, ul e, ul f, ul g, ul h) \
	{ \
		ul v[] = {a, b, c, d, e, f, g, h}; \
		return call(i, v); \
	}
EACH(WRAPPER)

/* open_counts maps PATH.counts, which is made if there is none. */
static struct counts *open_counts(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, sizeof(struct counts)) != 0) {
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	void *p = mmap(NULL, sizeof(struct counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

static const char *beside(const char *self, const char *suffix, const char *variable, char path[PATH_MAX])
{
	const char *given = getenv(variable);
	snprintf(path, PATH_MAX, "%s%s", self, suffix);
	return given != NULL && *given != '\0' && access(path, F_OK) != 0 ? given : path;
}

static struct list mine; /* complete when its C_Initialize is set */
__attribute__((visibility("default"))) ul C_GetFunctionList(struct list **out);

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

static ul load(void)
{
	Dl_info self;
	char path[PATH_MAX];
	if (!dladdr((void *)(uintptr_t)load, &self))
		return CKR_FUNCTION_FAILED;
	void *lib = dlopen(beside(self.dli_fname, ".real", "FAULTMODULE_REAL", path), RTLD_NOW | RTLD_LOCAL);
	if (lib == NULL) {
		fprintf(stderr, "faultmodule: %s\n", dlerror());
		return CKR_FUNCTION_FAILED;
	}
	ul (*get)(struct list **) = (ul (*)(struct list **))(uintptr_t)dlsym(lib, "C_GetFunctionList");
	snprintf(path, sizeof path, "%s.counts", self.dli_fname);
	if ((counts = open_counts(path)) == NULL || get == NULL || get(&real) != CKR_OK)
		return CKR_FUNCTION_FAILED;
	orders_open(beside(self.dli_fname, ".orders", "FAULTMODULE_ORDERS", path), counts);
	pthread_rwlockattr_t a;
	pthread_rwlockattr_init(&a);
	pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&calling, &a);
	memcpy(&mine, real, sizeof mine);
#define PUT(i) mine.f[i] = (void *)(uintptr_t)call_##i;
	EACH(PUT)
	mine.f[GET_FUNCTION_LIST] = (void *)(uintptr_t)C_GetFunctionList;
	return CKR_OK;
}

ul C_GetFunctionList(struct list **out)
{
	pthread_mutex_lock(&loading);
	ul rv = mine.f[INITIALIZE] != NULL ? CKR_OK : load();
	pthread_mutex_unlock(&loading);
	if (rv == CKR_OK)
		*out = &mine;
	return rv;
}
