// Package faultmodule is a PKCS#11 module of our own, in C (csrc), that passes
// every call on to a real one, SoftHSM, and fails, stalls and lies where a file
// says so. It shows how Keyhole bears broken HSMs, which real ones are not to
// order. Build makes it with gcc; New does that for a test.
//
// # Files
//
// A module at PATH reads and writes beside itself:
//
//	PATH.real    the real module (else what FAULTMODULE_REAL names)
//	PATH.orders  what to do (else what FAULTMODULE_ORDERS names)
//	PATH.counts  what has happened, and the version of the orders
//
// PATH.real is a copy, so that each module of a process is one of its own, with
// its own C_Initialize. Orders are read again when the file has changed: at
// once when Set has written them, within 5 ms when somebody else has. Without
// orders a call costs well under a microsecond more.
//
// # Orders
//
// One a line; # begins a comment. A line that is not understood makes every
// call return CKR_FUNCTION_REJECTED, and says why on standard error. An order
// that stays when the file changes keeps its count.
//
//	order     = function { condition } action | setting
//	function  = "C_Sign", ... | "*" (all that take a session)
//	condition = "nth" N | "from" N | "to" N   of the calls since the order was given
//	          | "each" N                      every N-th of them
//	          | "token" LABEL                 only on this token
//	          | "id" N                        makes an order differ from an equal one before
//	action    = "return" CODE        without calling the real module
//	          | "after" CODE         after having called it, whatever it answered
//	          | "stall" [ DURATION ] then go on; without one, when the line is gone
//	          | "delay" DURATION     then go on; is not counted as a fault
//	          | "drop"               first close all sessions of the token
//	          | "length" N           say that the output has N bytes
//	          | "flags" N            add these to CK_TOKEN_INFO
//	setting   = "sessions" N         no more than N at one time (CKR_SESSION_COUNT)
//	          | "read-write"           read-only sessions are CKR_FUNCTION_FAILED, as on CloudHSM
//	          | "pin-tries" N        after N wrong PINs in a row: CKR_PIN_LOCKED
//	          | "shuffle"            objects get other numbers at each login
//	          | "gone" [ LABEL ]     the token (all tokens) is not there
//	          | "forget" LABEL       no object of this label is there
//
// CODE is a CKR_ name or a number, DURATION like 250us, 5ms or 2s. Conditions
// are all to be met. Orders act in the order of the file, up to the first that
// returns. A call that only asks for the size of an output meets none and is
// not counted. Calls that stall or are delayed block no other.
//
// "shuffle" counts from C_Initialize. From then on each login numbers the
// objects that it makes visible anew, so that an old handle is good for
// another key of the same class. Handles of sessions are always the lowest
// free number, so that they come back soon.
package faultmodule
