// Package forms reads the forms in which signatures and ciphertexts come:
// raw, DER and JWS, envelope and JWE. Whatever a caller sent ends in a value
// of one kind, or in an error that says what was wrong with it.
package forms

// Clip bounds a caller's own text before it is shown back or recorded.
func Clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
