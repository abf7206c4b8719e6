// Package p11call makes the PKCS#11 calls of the data plane, each operation in
// one step over the border to C: its ...Init, and one call with a buffer that
// is large enough.
//
// miekg/pkcs11, which does everything else, asks for the size of each output
// first, so that an operation is three steps and does part of its work twice;
// and it never frees what it allocated for a call that then fails, so that
// callers who send ciphertexts that do not open could fill the memory. Here
// nothing is allocated in C. And modules that tell a wrong size (NSS does, for
// AES-GCM) work.
package p11call

/*
#include <stddef.h>
#include "p11call.h"

#cgo noescape run
#cgo nocallback run
#cgo noescape once_more
#cgo nocallback once_more
#cgo noescape generate_random
#cgo nocallback generate_random

static int usable(struct loaded *l)
{
	static const int used[] = {ENCRYPT_INIT, ENCRYPT, DECRYPT_INIT, DECRYPT, SIGN_INIT, SIGN, GENERATE_RANDOM};
	if (!l || !l->functions)
		return 0;
	for (unsigned i = 0; i < sizeof used / sizeof *used; i++)
		if (!l->functions->function[used[i]])
			return 0;
	return 1;
}

static ck_ulong once_more(struct loaded *l, struct call *c, ck_byte *in, ck_byte *out)
{
	return ((use_function)l->functions->function[c->use])(c->session, in, c->in_len, out, &c->out_len);
}

static ck_ulong run(struct loaded *l, struct call *c, ck_byte *iv, ck_byte *aad, ck_byte *in, ck_byte *out)
{
	struct gcm_params gcm;
	struct oaep_params oaep;
	struct pss_params pss;
	struct mechanism m = {c->mechanism, NULL, 0};
	ck_ulong rv;

	switch (c->kind) {
	case GCM:
		gcm = (struct gcm_params){c->a ? iv : NULL, c->a, 8 * c->a, c->b ? aad : NULL, c->b, c->c};
		m.parameter = &gcm;
		m.length = sizeof gcm;
		break;
	case OAEP:
		oaep = (struct oaep_params){c->a, c->b, c->c, NULL, 0};
		m.parameter = &oaep;
		m.length = sizeof oaep;
		break;
	case PSS:
		pss = (struct pss_params){c->a, c->b, c->c};
		m.parameter = &pss;
		m.length = sizeof pss;
		break;
	}
	if ((rv = ((init_function)l->functions->function[c->init])(c->session, &m, c->key)) != 0)
		return rv;
	c->began = 1;
	return once_more(l, c, in, out);
}

static ck_ulong generate_random(struct loaded *l, ck_ulong session, ck_byte *out, ck_ulong len)
{
	return ((random_function)l->functions->function[GENERATE_RANDOM])(session, out, len);
}
*/
import "C"

import (
	"unsafe"

	"github.com/miekg/pkcs11"
)

// Library is a module that miekg/pkcs11 has loaded.
type Library struct{ loaded *C.struct_loaded }

// Of returns the library of ctx. It must be the very function list that ctx
// has: a module may give another one to each who asks (p11-kit does), with
// sessions of its own. ok is false if functions are missing.
//
// What is behind a Ctx is not exported. It has not changed in ten years, the
// version is pinned, and the tests call a module through it.
func Of(ctx *pkcs11.Ctx) (l Library, ok bool) {
	l.loaded = *(**C.struct_loaded)(unsafe.Pointer(ctx))
	return l, C.usable(l.loaded) != 0
}

// Op is an operation that a key does.
type Op int

// The operations.
const (
	Sign Op = iota
	Encrypt
	Decrypt
)

// functions are the Init of an operation, and itself.
var functions = [...]struct{ init, use C.ck_ulong }{
	Sign: {C.SIGN_INIT, C.SIGN}, Encrypt: {C.ENCRYPT_INIT, C.ENCRYPT}, Decrypt: {C.DECRYPT_INIT, C.DECRYPT},
}

// Mechanism is a mechanism with its parameter.
type Mechanism struct {
	id      uint
	kind    C.ck_ulong
	a, b, c uint
	iv, aad []byte
}

// Plain is a mechanism without a parameter.
func Plain(id uint) Mechanism { return Mechanism{id: id, kind: C.PLAIN} }

// PSS is CKM_RSA_PKCS_PSS.
func PSS(hash, mgf uint, saltSize int) Mechanism {
	return Mechanism{id: pkcs11.CKM_RSA_PKCS_PSS, kind: C.PSS, a: hash, b: mgf, c: uint(saltSize)}
}

// OAEP is CKM_RSA_PKCS_OAEP with an empty label.
func OAEP(hash, mgf uint) Mechanism {
	return Mechanism{id: pkcs11.CKM_RSA_PKCS_OAEP, kind: C.OAEP, a: hash, b: mgf, c: pkcs11.CKZ_DATA_SPECIFIED}
}

// GCM is CKM_AES_GCM. A token that makes its own IV may write it into iv.
func GCM(iv, aad []byte, tagSize int) Mechanism {
	return Mechanism{id: pkcs11.CKM_AES_GCM, kind: C.GCM, a: uint(len(iv)), b: uint(len(aad)), c: uint(8 * tagSize), iv: iv, aad: aad}
}

// maxOutput bounds what a module can have us allocate.
const maxOutput = 64 << 10

// Do has the key do op with in, whose output is expected to have at most size
// bytes. The error is a pkcs11.Error; began says that it is not the Init's.
// After an error the session may hold an unfinished operation. What a failed
// call left in the buffer is overwritten.
func (l Library) Do(op Op, session pkcs11.SessionHandle, m *Mechanism, key pkcs11.ObjectHandle, in []byte, size int) (out []byte, began bool, err error) {
	c := C.struct_call{
		init: functions[op].init, use: functions[op].use, session: C.ck_ulong(session), key: C.ck_ulong(key),
		mechanism: C.ck_ulong(m.id), kind: m.kind, a: C.ck_ulong(m.a), b: C.ck_ulong(m.b), c: C.ck_ulong(m.c),
		in_len: C.ck_ulong(len(in)), out_len: C.ck_ulong(size),
	}
	out = make([]byte, max(size, 1))
	rv := C.run(l.loaded, &c, pointer(m.iv), pointer(m.aad), pointer(in), pointer(out))
	// A token may have kept the IV's address, which is good for one call.
	if rv == pkcs11.CKR_BUFFER_TOO_SMALL && c.began != 0 && m.iv == nil && uint64(c.out_len) > uint64(len(out)) && c.out_len <= maxOutput {
		out = make([]byte, c.out_len)
		rv = C.once_more(l.loaded, &c, pointer(in), pointer(out))
	}
	if rv == pkcs11.CKR_OK && uint64(c.out_len) > uint64(len(out)) {
		rv = pkcs11.CKR_GENERAL_ERROR // it says that it wrote more than there was room for
	}
	if rv != pkcs11.CKR_OK {
		clear(out)
		return nil, c.began != 0, pkcs11.Error(rv)
	}
	clear(out[c.out_len:])
	return out[:c.out_len:c.out_len], true, nil
}

// Random fills out. The error is a pkcs11.Error.
func (l Library) Random(session pkcs11.SessionHandle, out []byte) error {
	if rv := C.generate_random(l.loaded, C.ck_ulong(session), pointer(out), C.ck_ulong(len(out))); rv != pkcs11.CKR_OK {
		return pkcs11.Error(rv)
	}
	return nil
}

// nothing is what an empty slice points to: modules refuse NULL, also where
// the length is 0.
var nothing [1]byte

func pointer(b []byte) *C.ck_byte {
	if len(b) == 0 {
		return (*C.ck_byte)(&nothing[0])
	}
	return (*C.ck_byte)(&b[0])
}
