// Package hsm is all of Keyhole's cgo: the PKCS#11 layer. It makes, uses and
// destroys keys that live in tokens and never leave them.
//
// # Two libraries, one owner
//
// crypto11 loads the module, calls C_Initialize, logs in and generates keys
// (the management plane). miekg/pkcs11 does what an answer waits for: sign,
// encrypt, decrypt, random (the data plane), and what crypto11 lacks:
// Ed25519, searches by CKA_ID, attribute read-back, destruction by id, and
// sessions that are dropped after an error. A PKCS#11 module is a thing of
// the whole process: one C_Initialize, one login per token. So there is one
// module value per file, shared by every HSM of the process, which can drain,
// finalise and reopen it, with all its tokens.
//
// # Generations
//
// Sessions and object handles are good for one login of one token, its
// generation. A worker opens its session, asks whether the session is logged
// in, and only then reads the generation; a login first raises the
// generation. A handle is used only over a session of the handle's own
// generation, and is otherwise found again by CKA_ID, exactly one match, and
// proved against the version's public key or check value before its first
// use. So a token that reuses handle numbers after a reset cannot make
// Keyhole sign with another key.
//
// # Calls that hang
//
// A C call cannot be cancelled. It runs on a worker that owns a session
// (package workers); the caller leaves at its deadline and the worker stays
// with the call. When too many hang, Health says not ready: only a restart of
// the process helps.
//
// # Errors
//
// Package fault is the one place that judges CKR codes: the caller's fault, a bad
// session, a stale handle, a lost login, a failed device. Sessions, handles
// and logins are repaired within the call, once each. Device failures open a
// circuit breaker; Run then finalises and reopens the module.
//
// A PIN that a token refused is never tried again by this process, whatever
// is opened anew: three such attempts would lock the partition.
package hsm
