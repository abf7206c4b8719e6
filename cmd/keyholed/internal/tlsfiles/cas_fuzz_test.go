package tlsfiles

import (
	"os"
	"path/filepath"
	"testing"
)

// Client CAs are CAs, and at least one, whatever is in the file.
func FuzzCAs(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("no PEM"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "ca.crt")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cas, err := readCAs(path)
		if err == nil && len(cas) == 0 {
			t.Fatal("no CA, and no error")
		}
		for _, ca := range cas {
			if !ca.IsCA {
				t.Fatalf("%q is no CA", ca.Subject)
			}
		}
	})
}
