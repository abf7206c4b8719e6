package p11call

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/miekg/pkcs11"
)

// odd loads the module of testdata.
func odd(t *testing.T, flags ...string) (*pkcs11.Ctx, Library, bool) {
	t.Helper()
	so := filepath.Join(t.TempDir(), "odd.so")
	if out, err := exec.Command("gcc", append(flags, "-shared", "-fPIC", "-o", so, "testdata/odd.c")...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	ctx := pkcs11.New(so)
	if ctx == nil {
		t.Fatal("it is not loaded")
	}
	l, ok := Of(ctx)
	return ctx, l, ok
}

func TestModulesThatLackFunctions(t *testing.T) {
	t.Parallel()
	if _, _, ok := odd(t, "-DWITHOUT_RANDOM"); ok {
		t.Error("a module without C_GenerateRandom is good enough")
	}
}

func TestOddModules(t *testing.T) {
	t.Parallel()
	_, l, ok := odd(t)
	if !ok {
		t.Fatal("the functions are not found")
	}
	plain := Plain(pkcs11.CKM_ECDSA)
	hello := []byte("hello")
	for _, tt := range []struct {
		name    string
		op      Op
		session pkcs11.SessionHandle
		key     pkcs11.ObjectHandle
		in      []byte
		size    int
		want    []byte
		code    pkcs11.Error
		began   bool
	}{
		{"an echo", Sign, 7, 1, hello, 64, hello, 0, true},
		{"of nothing", Encrypt, 7, 1, nil, 64, []byte{}, 0, true},
		{"into no room", Decrypt, 7, 1, []byte{}, 0, []byte{}, 0, true},
		{"more than was thought", Sign, 7, 2, hello, 64, bytes.Repeat([]byte{2}, 100), 0, true},
		{"more than there was room for", Sign, 7, 3, hello, 64, nil, pkcs11.CKR_GENERAL_ERROR, true},
		{"never enough", Decrypt, 7, 4, hello, 64, nil, pkcs11.CKR_BUFFER_TOO_SMALL, true},
		{"nobody knows how much", Decrypt, 7, 5, hello, 64, nil, pkcs11.CKR_BUFFER_TOO_SMALL, true},
		{"too much", Decrypt, 7, 6, hello, 64, nil, pkcs11.CKR_BUFFER_TOO_SMALL, true},
		{"it fails", Decrypt, 7, 50, hello, 64, nil, pkcs11.CKR_GENERAL_ERROR, true},
		{"no such key", Sign, 7, 99, hello, 64, nil, pkcs11.CKR_KEY_HANDLE_INVALID, false},
		{"no such session", Sign, 8, 1, hello, 64, nil, pkcs11.CKR_SESSION_HANDLE_INVALID, false},
	} {
		out, began, err := l.Do(tt.op, tt.session, &plain, tt.key, tt.in, tt.size)
		var code pkcs11.Error
		if errors.As(err, &code); code != tt.code || (err == nil) != (tt.code == 0) || began != tt.began || !bytes.Equal(out, tt.want) {
			t.Errorf("%s: %q, began %v, %v", tt.name, out, began, err)
		}
	}

	out := make([]byte, 5)
	if err := l.Random(7, out); err != nil || !bytes.Equal(out, []byte("UUUUU")) {
		t.Errorf("random bytes: %q, %v", out, err)
	}
	if err := l.Random(8, out); !errors.Is(err, pkcs11.Error(pkcs11.CKR_SESSION_HANDLE_INVALID)) {
		t.Errorf("random bytes: %v", err)
	}
}

// Modules get the parameters of the specification.
func TestParameters(t *testing.T) {
	t.Parallel()
	_, l, _ := odd(t)
	iv, aad := make([]byte, 12), []byte("about")
	gcm := GCM(iv, aad, 16)
	if _, _, err := l.Do(Encrypt, 7, &gcm, 7, []byte("x"), 32); err != nil || !bytes.Equal(iv, bytes.Repeat([]byte{0x77}, 12)) {
		t.Errorf("the IV is %x, %v", iv, err)
	}
	if out, _, err := l.Do(Encrypt, 7, &gcm, 9, []byte("x"), 32); err != nil || !bytes.Equal(out, aad) {
		t.Errorf("the AAD is %q, %v", out, err)
	}
	// A token may have kept where the IV is: there is no second call.
	if _, _, err := l.Do(Encrypt, 7, &gcm, 2, []byte("x"), 32); !errors.Is(err, pkcs11.Error(pkcs11.CKR_BUFFER_TOO_SMALL)) {
		t.Errorf("too little room for AES-GCM: %v", err)
	}
	for name, tt := range map[string]struct {
		m    Mechanism
		want []uint64 // mechanism, length, parameter
	}{
		"plain":                  {Plain(pkcs11.CKM_ECDSA), []uint64{pkcs11.CKM_ECDSA, 0}},
		"PSS":                    {PSS(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, 32), []uint64{pkcs11.CKM_RSA_PKCS_PSS, 24, pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, 32}},
		"OAEP":                   {OAEP(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1), []uint64{pkcs11.CKM_RSA_PKCS_OAEP, 40, pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED}},
		"GCM without IV and AAD": {GCM(nil, nil, 16), []uint64{pkcs11.CKM_AES_GCM, 48, 0, 0, 0, 0, 0, 128}},
	} {
		out, _, err := l.Do(Sign, 7, &tt.m, 8, nil, 64)
		want := make([]byte, 64)
		for i, v := range tt.want {
			binary.NativeEndian.PutUint64(want[8*i:], v)
		}
		if err != nil || !bytes.Equal(out, want) {
			t.Errorf("%s: the module got %x (%v), want %x", name, out, err, want)
		}
	}
}
