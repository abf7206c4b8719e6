// Package wycheproof runs Project Wycheproof's vectors through Keyhole: each
// signature through the verify call of a whole gateway, each ciphertext
// through a real token that holds the vector's key. Nothing is reimplemented
// here; a vector is judged by the code that answers users.
//
// Every file of the module has its place: in the table of suites, which
// runs all of its vectors, or in the table of what is left out, with the
// reason. Where Keyhole decides otherwise than a vector, the exception is
// listed with its reason, and a listed exception that does not occur is an
// error too.
package wycheproof
