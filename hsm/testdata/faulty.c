/* A PKCS#11 module that passes everything on to another one and fails, stalls
 * or lies where a test says so. The real module is PATH.real, the orders are in
 * PATH.orders (mapped), PATH being this library's own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef unsigned long ul;
typedef ul (*fn)(ul, ul, ul, ul, ul, ul, ul, ul);

struct list { unsigned char major, minor; void *f[68]; };

/* order[i] is about the i-th function of CK_FUNCTION_LIST. */
struct order {
	volatile int code;  /* what to return */
	volatile int times; /* how often; -1: always */
	volatile int stall; /* wait while it is not 0 */
	volatile int calls; /* counted here */
};

static struct list *real, mine;
static struct order *orders;

enum { INITIALIZE, FINALIZE, TOKEN_INFO = 6, OPEN_SESSION = 12, SESSION_INFO = 15, LOGIN = 18, CREATE = 20, DESTROY = 22,
	FIND_INIT = 26, ENCRYPT = 30, DECRYPT_INIT = 33, DECRYPT = 34, SIGN_INIT = 42, SIGN = 43, GENERATE = 58, GENERATE_PAIR = 59, RANDOM = 64 };

/* The first call of those that ask for a size has no output buffer (argument
 * n); only the second one is counted and fails. */
static int fault(int i)
{
	struct order *o = &orders[i];
	__sync_fetch_and_add(&o->calls, 1);
	while (o->stall)
		usleep(500);
	if (o->times == 0)
		return 0;
	if (o->times > 0)
		__sync_fetch_and_sub(&o->times, 1);
	return o->code;
}

#define PASS(name, i, skip) \
	static ul name(ul a, ul b, ul c, ul d, ul e, ul f, ul g, ul h) \
	{ \
		int code = (skip) ? 0 : fault(i); \
		return code ? (ul)code : ((fn)real->f[i])(a, b, c, d, e, f, g, h); \
	}
PASS(initialize, INITIALIZE, 0)
PASS(finalize, FINALIZE, 0)
PASS(open_session, OPEN_SESSION, 0)
PASS(session_info, SESSION_INFO, 0)
PASS(login, LOGIN, 0)
PASS(create, CREATE, 0)
PASS(destroy, DESTROY, 0)
PASS(find_init, FIND_INIT, 0)
PASS(encrypt, ENCRYPT, d == 0)
PASS(decrypt_init, DECRYPT_INIT, 0)
PASS(decrypt, DECRYPT, d == 0)
PASS(sign_init, SIGN_INIT, 0)
PASS(sign, SIGN, d == 0)
PASS(generate, GENERATE, 0)
PASS(generate_pair, GENERATE_PAIR, 0)
PASS(randomize, RANDOM, 0)

/* The code is a mask of flags to add. CK_TOKEN_INFO: 32+32+16+16 bytes, flags. */
static ul token_info(ul slot, ul info, ul c, ul d, ul e, ul f, ul g, ul h)
{
	ul rv = ((fn)real->f[TOKEN_INFO])(slot, info, c, d, e, f, g, h);
	if (rv == 0)
		*(ul *)(info + 96) |= (ul)fault(TOKEN_INFO);
	return rv;
}

ul C_GetFunctionList(struct list **out)
{
	if (real == NULL) {
		Dl_info self;
		char path[PATH_MAX + 16];
		if (!dladdr((void *)C_GetFunctionList, &self))
			return 5;
		snprintf(path, sizeof path, "%s.orders", self.dli_fname);
		int fd = open(path, O_RDWR);
		if (fd < 0)
			return 5;
		orders = mmap(NULL, 68 * sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		snprintf(path, sizeof path, "%s.real", self.dli_fname);
		void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		if (orders == MAP_FAILED || lib == NULL)
			return 5;
		ul (*get)(struct list **) = (ul (*)(struct list **))dlsym(lib, "C_GetFunctionList");
		if (get == NULL || get(&real) != 0)
			return 5;
		memcpy(&mine, real, sizeof mine);
		mine.f[INITIALIZE] = initialize;
		mine.f[FINALIZE] = finalize;
		mine.f[TOKEN_INFO] = token_info;
		mine.f[OPEN_SESSION] = open_session;
		mine.f[SESSION_INFO] = session_info;
		mine.f[LOGIN] = login;
		mine.f[CREATE] = create;
		mine.f[DESTROY] = destroy;
		mine.f[FIND_INIT] = find_init;
		mine.f[ENCRYPT] = encrypt;
		mine.f[DECRYPT_INIT] = decrypt_init;
		mine.f[DECRYPT] = decrypt;
		mine.f[SIGN_INIT] = sign_init;
		mine.f[SIGN] = sign;
		mine.f[GENERATE] = generate;
		mine.f[GENERATE_PAIR] = generate_pair;
		mine.f[RANDOM] = randomize;
	}
	*out = &mine;
	return 0;
}
