package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file of headers holds secrets: what is wrong with it is said without
// them.
func FuzzHeaders(f *testing.F) {
	f.Add("Authorization: Bearer hunter2hunter2\n")
	f.Add("# a comment\n\nhunter2hunter2\n")
	f.Add(": hunter2hunter2")
	f.Add(strings.Repeat("x", 70_000))
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "h")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		headers, err := readHeaders(path)
		if err != nil && strings.Contains(err.Error(), "hunter2hunter2") {
			t.Fatalf("the error shows what is in the file: %v", err)
		}
		for name, value := range headers {
			if name == "" || strings.ContainsAny(name+value, "\n") {
				t.Fatalf("%q: %q", name, value)
			}
		}
	})
}
