/* A PKCS#11 module that passes every call on to another module, but for what
 * its orders say. See ../doc.go for the orders and the files.
 *
 * orders.c   reads the orders and says which of them a call meets
 * objects.c  sessions and objects as the caller numbers them
 * table.c    the functions of PKCS#11, and what their arguments are
 * module.c   what one call does */
#ifndef FAULT_H
#define FAULT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef unsigned long ul; /* CK_ULONG, handles and pointers alike */
typedef ul (*fn)(ul, ul, ul, ul, ul, ul, ul, ul);

enum { FUNCTIONS = 68, LABEL = 32, ORDERS = 64, FORGOTTEN = 16, LINE = 512 };

struct list { unsigned char major, minor; void *f[FUNCTIONS]; };

enum { /* the functions that are more than a line of the table */
	INITIALIZE = 0, FINALIZE = 1, GET_FUNCTION_LIST = 3, SLOT_LIST = 4, TOKEN_INFO = 6, OPEN_SESSION = 12, CLOSE_SESSION = 13,
	CLOSE_ALL = 14, LOGIN = 18, COPY = 21, DESTROY = 22, GET_ATTRIBUTE = 24, SET_ATTRIBUTE = 25, FIND_INIT = 26, FIND = 27, FIND_FINAL = 28,
};

enum { /* what this module itself answers */
	CKR_OK = 0, CKR_FUNCTION_FAILED = 0x06, CKR_DEVICE_REMOVED = 0x32, CKR_KEY_HANDLE_INVALID = 0x60, CKR_OBJECT_HANDLE_INVALID = 0x82,
	CKR_PIN_INCORRECT = 0xA0, CKR_PIN_LOCKED = 0xA4, CKR_SESSION_COUNT = 0xB1, CKR_SESSION_HANDLE_INVALID = 0xB3,
	CKR_TOKEN_NOT_PRESENT = 0xE0, CKR_FUNCTION_REJECTED = 0x200,
};

/* What others may read and, version alone, write: the file PATH.counts. */
struct counts {
	_Atomic uint64_t version;  /* changed by whoever has written new orders */
	_Atomic uint64_t wrong;    /* wrong PINs since the last right one */
	_Atomic uint64_t sessions; /* open now */
	_Atomic uint64_t most;     /* open at one time */
	_Atomic uint64_t calls[FUNCTIONS];  /* without those that ask for a size */
	_Atomic uint64_t faults[FUNCTIONS]; /* calls that met an order but delay */
	_Atomic uint64_t inside[FUNCTIONS]; /* calls that have not returned */
};

/* What an order does. */
enum act { RETURN, AFTER, STALL, DELAY, LENGTH, FLAGS, DROP };

struct order {
	const char *line; /* its text: an order that stays keeps its count */
	bool functions[FUNCTIONS];
	ul nth, from, to, each; /* 0: no such condition */
	ul id;                  /* makes it another one than an equal one of before */
	char token[LABEL + 1];  /* "": any */
	enum act act;
	ul value; /* a code, flags, a length, or nanoseconds */
	_Atomic uint64_t met;
};

/* Orders as one reading of the file has found them; they never change. */
struct orders {
	uint64_t version;
	int64_t mtime, size, ino;
	bool bad; /* an order was not understood: nothing works */
	ul sessions, pin_tries; /* 0: no limit */
	bool shuffle;
	bool read_write; /* there are no read-only sessions */
	bool gone;                  /* no token is there, or: */
	char gone_token[LABEL + 1]; /* this one is not */
	int forgotten;
	char forget[FORGOTTEN][2 * LABEL]; /* labels of objects */
	int count;
	struct order *order[ORDERS];
};

/* orders.c */
void orders_open(const char *file, struct counts *shared);
struct orders *orders_now(void);
bool orders_have(const struct orders *o, const struct order *one);
bool order_hits(struct order *o, int function, const char *token);

/* table.c */
extern const char *const names[FUNCTIONS];
extern const char *const kinds[FUNCTIONS];
int function_named(const char *name); /* -1: none */
long code_named(const char *name);    /* -1: none */
bool asks_size(int function, const ul *v);

/* objects.c; the caller holds the lock of module.c, for writing where it says so */
struct session { _Atomic ul real; ul slot; char token[LABEL + 1]; pthread_mutex_t calling; };
extern struct list *real;
extern struct counts *counts;
void label_of_slot(ul slot, char label[LABEL + 1]);
struct session *session_of(ul handle); /* NULL: none */
ul session_add(ul real_handle, ul slot);
void session_remove(ul handle);
void sessions_clear(const ul *slot);   /* NULL: of all slots; for writing */
void sessions_drop(const char *token); /* closes them all ("": of all tokens); for writing */
void objects_reset(bool shuffle);      /* for writing */
void objects_number(ul real_session);  /* numbers what a login has made visible; for writing */
ul object_real(ul handle);             /* 0: none */
ul object_virtual(ul real_handle);
bool object_forgotten(const struct orders *o, ul real_session, ul real_object);

#endif
