/* What of Cryptoki 2.40 the data plane calls. CK_ULONG is unsigned long, and
 * structures are not packed: that is every system but Windows. */

typedef unsigned long ck_ulong;
typedef unsigned char ck_byte;

struct mechanism {
	ck_ulong type;
	void *parameter;
	ck_ulong length;
};

struct gcm_params {
	ck_byte *iv;
	ck_ulong iv_len;
	ck_ulong iv_bits;
	ck_byte *aad;
	ck_ulong aad_len;
	ck_ulong tag_bits;
};

struct oaep_params {
	ck_ulong hash;
	ck_ulong mgf;
	ck_ulong source;
	void *source_data;
	ck_ulong source_data_len;
};

struct pss_params {
	ck_ulong hash;
	ck_ulong mgf;
	ck_ulong salt_len;
};

typedef ck_ulong (*init_function)(ck_ulong session, struct mechanism *m, ck_ulong key);
typedef ck_ulong (*use_function)(ck_ulong session, ck_byte *in, ck_ulong in_len, ck_byte *out, ck_ulong *out_len);
typedef ck_ulong (*random_function)(ck_ulong session, ck_byte *out, ck_ulong len);

/* CK_FUNCTION_LIST: a version and 68 functions, in the order of pkcs11f.h. */
struct functions {
	ck_byte major, minor;
	void *function[68];
};

enum { ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT_INIT = 33, DECRYPT = 34, SIGN_INIT = 42, SIGN = 43, GENERATE_RANDOM = 64 };

/* What github.com/miekg/pkcs11 has behind a Ctx. */
struct loaded {
	void *library;
	struct functions *functions;
};

enum { PLAIN, GCM, OAEP, PSS };

/* One operation. There are no pointers in it, so that it may lie in Go's
 * memory. */
struct call {
	ck_ulong init, use; /* which functions */
	ck_ulong session, key;
	ck_ulong mechanism, kind;
	ck_ulong a, b, c; /* of the parameter; what they are depends on kind */
	ck_ulong in_len, out_len;
	ck_ulong began; /* out: init is done */
};
