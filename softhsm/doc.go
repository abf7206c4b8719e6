// Package softhsm makes throw-away SoftHSM 2 tokens, for tests and for
// `keyholed dev`. It is not for tokens that guard anything: SoftHSM keeps its
// keys in files.
//
// A directory holds one SoftHSM configuration (softhsm2.conf), the tokens
// (tokens/) and their random PINs (user.pin, so.pin). Directories are 0700,
// files 0600. A process reads one configuration only, at C_Initialize, from
// the environment variable SOFTHSM2_CONF; so tests that want several tokens
// put them into one directory (AddToken).
//
// # Why tokens are made by softhsm2-util
//
// Initialising a token in this process would need a C_Initialize of its own,
// before the one of whoever uses the token, and a C_Finalize in between,
// which ends the PKCS#11 state of everybody else in the process. A child
// process has none of that, and this package needs no cgo.
//
// The price: softhsm2-util takes PINs as flags only (2.6.1 does not read them
// from a pipe), so that they can be seen in the process list for the
// milliseconds of the initialisation. Such a PIN opens nothing by itself: the
// token is a directory that only its owner may enter, and the owner can read
// the PIN from its file. This holds for throw-away tokens on one machine and
// for nothing else.
//
// # What a running process sees
//
// Measured with 2.6.1: a token that is made after a process has called
// C_Initialize stays invisible to it until C_Finalize and C_Initialize. Make
// all tokens first; softhsmtest does.
package softhsm
