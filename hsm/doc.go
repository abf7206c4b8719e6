// Package hsm is all of Keyhole's cgo: the PKCS#11 layer. It makes, uses and
// destroys keys that live in tokens and never leave them.
//
// This package is what the rest of Keyhole calls: Open, the data plane
// (data.go), the management plane (manage.go, list.go, storekey.go), and Run
// and Health. It gives each configured token its pool of workers, its circuit
// breaker and its canary. What is below it, each package importing only those
// before it:
//
//	workers   runs calls that cannot be cancelled, for callers who can leave
//	public    public keys, in software
//	template  the attributes of keys, and why
//	fault     judges what PKCS#11 functions return
//	module    owns libraries, logins, sessions; repairs and reopens them
//	mech      one call each: sign, wrap, unwrap, generate, ...; proves keys
//	objects   finds, makes and destroys the keys on a token
//	marks     keeps revocations on a token
//	probe     shows what a token can do, and that it still can
//
// # Two libraries, one owner
//
// crypto11 loads the module, calls C_Initialize, logs in and generates keys
// (the management plane). miekg/pkcs11 does what an answer waits for: sign,
// encrypt, decrypt, random (the data plane), and what crypto11 lacks:
// Ed25519, searches by CKA_ID, attribute read-back, destruction by id, and
// sessions that are dropped after an error. A PKCS#11 module is a thing of
// the whole process, so package module owns both libraries' view of it.
//
// # Which key
//
// A handle is used only over a session of the login that it was found in, and
// is otherwise found again by CKA_ID, exactly one match, and proved against
// the version's public key or check value before its first use. So a token
// that reuses handle numbers after a reset cannot make Keyhole sign with
// another key. A result that a new login has overtaken is thrown away, good or
// bad, and the call repeated. See package module for how logins are told apart.
//
// # Calls that hang
//
// A C call cannot be cancelled. It runs on a worker that owns a session; the
// caller leaves at its deadline and the worker stays with the call. When too
// many hang, Health says not ready: only a restart of the process helps.
//
// # Errors
//
// Errors are the caller's fault, or that of a bad session, a stale handle, a
// lost login, a failed device. Sessions, handles and logins are repaired
// within the call, once each; so a call may run more than once, and must not
// spoil what it works on. Device failures open the circuit breaker; Run
// then finalises and reopens the module.
//
// A PIN that a token refused is never tried again by this process, whatever
// is opened anew: three such attempts would lock the partition.
package hsm
