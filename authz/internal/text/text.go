// Package text judges names that come from outside and go into logs.
package text

import (
	"unicode"
	"unicode/utf8"
)

// Printable reports whether s is 1 to limit bytes of UTF-8 that a log shows
// as it is: no control, format or other invisible characters but the space.
func Printable(s string, limit int) bool {
	if s == "" || len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
