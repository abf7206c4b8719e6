#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fault.h"

enum { CKA_CLASS = 0, CKA_TOKEN = 1, CKA_LABEL = 3, CKA_ID = 0x102 };
struct attribute { ul type; void *value; ul length; };

/* Sessions: the caller's handle is a place in this table, and the lowest free
 * one is taken: numbers come back soon, as they do after a device's reset. */
enum { SESSIONS = 8192 };
static struct session sessions[SESSIONS];
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER; /* of what follows and who is in sessions */

void label_of_slot(ul slot, char label[LABEL + 1])
{
	unsigned char info[512]; /* CK_TOKEN_INFO begins with the label, padded with blanks */
	label[0] = '\0';
	if (((fn)real->f[TOKEN_INFO])(slot, (ul)info, 0, 0, 0, 0, 0, 0) != CKR_OK)
		return;
	memcpy(label, info, LABEL);
	int n = LABEL;
	while (n > 0 && (label[n - 1] == ' ' || label[n - 1] == '\0'))
		n--;
	label[n] = '\0';
}

struct session *session_of(ul handle)
{
	if (handle == 0 || handle > SESSIONS || sessions[handle - 1].real == 0)
		return NULL;
	return &sessions[handle - 1];
}

ul session_add(ul real_handle, ul slot)
{
	char token[LABEL + 1];
	label_of_slot(slot, token);
	ul handle = 0;
	pthread_mutex_lock(&changing);
	for (ul i = 0; i < SESSIONS && handle == 0; i++) {
		struct session *s = &sessions[i];
		if (s->real != 0)
			continue;
		s->slot = slot;
		memcpy(s->token, token, sizeof s->token);
		s->real = real_handle;
		handle = i + 1;
		uint64_t open = atomic_fetch_add(&counts->sessions, 1) + 1;
		if (open > counts->most)
			counts->most = open;
	}
	pthread_mutex_unlock(&changing);
	return handle;
}

static void forget_session(struct session *s)
{
	s->real = 0;
	atomic_fetch_sub(&counts->sessions, 1);
}

void session_remove(ul handle)
{
	pthread_mutex_lock(&changing);
	struct session *s = session_of(handle);
	if (s != NULL)
		forget_session(s);
	pthread_mutex_unlock(&changing);
}

void sessions_clear(const ul *slot)
{
	for (ul i = 0; i < SESSIONS; i++)
		if (sessions[i].real != 0 && (slot == NULL || sessions[i].slot == *slot))
			forget_session(&sessions[i]);
}

void sessions_drop(const char *token)
{
	for (ul i = 0; i < SESSIONS; i++) {
		struct session *s = &sessions[i];
		if (s->real == 0 || (token[0] != '\0' && strcmp(s->token, token) != 0))
			continue;
		ul slot = s->slot;
		((fn)real->f[CLOSE_ALL])(slot, 0, 0, 0, 0, 0, 0, 0);
		sessions_clear(&slot);
	}
}

/* Objects, where they are shuffled: the caller's handle is a number that a
 * table gives, by both. Each login numbers the objects that it makes visible
 * anew, so that a number of before is that of another object of its class. */
enum { OBJECTS = 1 << 16 };
static struct {
	bool on;
	ul logins, used;
	ul real[OBJECTS];        /* by virtual handle - 1 */
	ul virtual[2 * OBJECTS]; /* a hash table of virtual handles, by real one */
} objects;

void objects_reset(bool shuffle)
{
	objects.on = shuffle;
	objects.used = 0;
	memset(objects.virtual, 0, sizeof objects.virtual);
}

static ul *place(ul real_handle)
{
	ul i = real_handle * 0x9E3779B97F4A7C15u % (2 * OBJECTS);
	while (objects.virtual[i] != 0 && objects.real[objects.virtual[i] - 1] != real_handle)
		i = (i + 1) % (2 * OBJECTS);
	return &objects.virtual[i];
}

ul object_real(ul handle)
{
	if (!objects.on)
		return handle;
	pthread_mutex_lock(&changing);
	ul found = handle == 0 || handle > objects.used ? 0 : objects.real[handle - 1];
	pthread_mutex_unlock(&changing);
	return found;
}

ul object_virtual(ul real_handle)
{
	if (!objects.on)
		return real_handle;
	pthread_mutex_lock(&changing);
	ul *v = place(real_handle);
	if (*v == 0 && objects.used < OBJECTS) {
		objects.real[objects.used++] = real_handle;
		*v = objects.used;
	}
	ul handle = *v;
	pthread_mutex_unlock(&changing);
	return handle;
}

struct known { ul handle, class; unsigned char id[64]; };

static int by_class_and_id(const void *a, const void *b)
{
	const struct known *x = a, *y = b;
	if (x->class != y->class)
		return x->class < y->class ? -1 : 1;
	return memcmp(x->id, y->id, sizeof x->id);
}

void objects_number(ul real_session)
{
	if (!objects.on)
		return;
	struct known *all = calloc(OBJECTS, sizeof *all);
	unsigned char yes = 1;
	struct attribute on_token = {CKA_TOKEN, &yes, 1};
	ul n = 0, got = 0;
	if (((fn)real->f[FIND_INIT])(real_session, (ul)&on_token, 1, 0, 0, 0, 0, 0) != CKR_OK) {
		free(all);
		return;
	}
	while (n < OBJECTS && ((fn)real->f[FIND])(real_session, (ul)&all[n].handle, 1, (ul)&got, 0, 0, 0, 0) == CKR_OK && got == 1)
		n++;
	((fn)real->f[FIND_FINAL])(real_session, 0, 0, 0, 0, 0, 0, 0);
	for (ul i = 0; i < n; i++) {
		struct attribute a[] = {{CKA_CLASS, &all[i].class, sizeof all[i].class}, {CKA_ID, all[i].id, sizeof all[i].id}};
		for (int j = 0; j < 2; j++) /* one by one: an object that lacks one would fail both */
			((fn)real->f[GET_ATTRIBUTE])(real_session, all[i].handle, (ul)&a[j], 1, 0, 0, 0, 0);
	}
	qsort(all, n, sizeof *all, by_class_and_id);
	objects_reset(true);
	objects.logins++;
	for (ul from = 0, to; from < n; from = to) { /* turn each class by one at each login */
		for (to = from; to < n && all[to].class == all[from].class; to++)
			;
		for (ul i = from; i < to; i++) {
			ul turned = all[from + (i - from + objects.logins) % (to - from)].handle;
			*place(turned) = ++objects.used;
			objects.real[objects.used - 1] = turned;
		}
	}
	free(all);
}

bool object_forgotten(const struct orders *o, ul real_session, ul real_object)
{
	char label[2 * LABEL] = "";
	struct attribute a = {CKA_LABEL, label, sizeof label - 1};
	if (o->forgotten == 0 ||
	    ((fn)real->f[GET_ATTRIBUTE])(real_session, real_object, (ul)&a, 1, 0, 0, 0, 0) != CKR_OK)
		return false;
	for (int i = 0; i < o->forgotten; i++)
		if (strlen(o->forget[i]) == a.length && memcmp(o->forget[i], label, a.length) == 0)
			return true;
	return false;
}
