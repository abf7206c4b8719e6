package config

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"keyhole/cmd/keyholed/internal/harden"
	"keyhole/cmd/keyholed/internal/strictyaml"
	"keyhole/keys"
)

// checker looks for values that decode but cannot work.
type checker struct {
	c        *Config
	broken   map[string]bool // paths that have a problem already
	problems strictyaml.Errors
}

// check returns what is wrong with c beyond what the decoder found.
func check(c *Config, found strictyaml.Errors) strictyaml.Errors {
	k := &checker{c: c, broken: map[string]bool{}}
	for _, p := range found {
		k.broken[p.Path] = true
	}
	k.general()
	k.tls()
	k.tokens()
	k.auth()
	k.storage()
	k.rotation()
	k.triggers()
	k.webhooks()
	k.limits()
	return k.problems
}

// addf notes a problem about a key: one a key, and none inside a section
// that could not be read.
func (k *checker) addf(path, format string, args ...any) {
	for p := path; p != ""; p = strictyaml.Parent(p) {
		if k.broken[p] {
			return
		}
	}
	k.broken[path] = true
	k.problems = append(k.problems, k.c.Problem(path, format, args...))
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

func (k *checker) general() {
	c := k.c
	if !nodeName.MatchString(c.Node) {
		k.addf("node", "must be 1 to 63 letters, digits, '.', '_' or '-'; it names this gateway in the audit log")
	}
	k.address("listen", c.Listen)
	if c.Ops.Listen != "" {
		k.address("ops.listen", c.Ops.Listen)
		if c.Ops.Listen == c.Listen && !strings.HasSuffix(c.Listen, ":0") {
			k.addf("ops.listen", "is the address of the API listener too; give it another port")
		}
	}
	k.word("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.word("log.format", c.Log.Format, "json", "text")
	if c.ReloadInterval != 0 {
		k.between("reload_interval", c.ReloadInterval, time.Second, time.Hour)
	}
	k.between("shutdown_delay", c.ShutdownDelay, 0, 5*time.Minute)
	k.between("shutdown_grace", c.ShutdownGrace, time.Second, 10*time.Minute)
	for name := range c.ModuleEnv {
		if !envName.MatchString(name) {
			k.addf("module_env."+strictyaml.Clip(name), "is no name of an environment variable")
		}
	}
}

func (k *checker) address(path, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		k.addf(path, "%q is no address; write host:port, like \"127.0.0.1:8443\", or \":8443\" for all interfaces", strictyaml.Clip(addr))
		return
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		k.addf(path, "%q is no port; use a number from 1 to 65535, or 0 for any free one", strictyaml.Clip(port))
	}
	if strings.ContainsAny(host, " /") {
		k.addf(path, "%q is no host; write an IP address or a host name", strictyaml.Clip(host))
	}
}

func (k *checker) word(path, got string, words ...string) {
	if slices.Contains(words, got) {
		return
	}
	if guess := strictyaml.Nearest(got, words); guess != "" {
		k.addf(path, "%q is unknown; did you mean %q?", strictyaml.Clip(got), guess)
		return
	}
	k.addf(path, "%q is unknown; use %s", strictyaml.Clip(got), strictyaml.OneOf(words))
}

func (k *checker) between(path string, got, least, most time.Duration) {
	if got < least || got > most {
		k.addf(path, "is %s; it must be between %s and %s", got, least, most)
	}
}

func (k *checker) count(path string, got, least, most int) {
	if got < least || got > most {
		k.addf(path, "is %d; it must be between %d and %d", got, least, most)
	}
}

// required notes that a text is missing, and reports whether it is there.
func (k *checker) required(path, got, what string) bool {
	if got == "" {
		k.addf(path, "is missing; it is %s", what)
	}
	return got != ""
}

// Permission bits that a file must not have.
const (
	readByAll  = 0o007
	writeByAll = 0o002
)

// file checks that a file can be read and has none of the forbidden bits.
func (k *checker) file(path, name string, forbidden os.FileMode) {
	if name == "" || k.broken[path] {
		return
	}
	info, err := os.Stat(name)
	switch {
	case os.IsNotExist(err):
		k.addf(path, "the file %s does not exist", name)
	case err != nil:
		k.addf(path, "the file cannot be read: %v", err)
	case info.IsDir():
		k.addf(path, "%s is a directory; name a file", name)
	case !info.Mode().IsRegular():
		k.addf(path, "%s is no regular file", name)
	case info.Mode().Perm()&forbidden != 0:
		may := "change"
		if forbidden&0o004 != 0 {
			may = "read"
		}
		k.addf(path, "%s has the mode %04o: everybody may %s it; run: chmod %04o %s", name, info.Mode().Perm(), may, info.Mode().Perm()&^(forbidden|0o111), name)
	default:
		f, err := os.Open(name)
		if err != nil {
			k.addf(path, "the file cannot be read: %v", err)
			return
		}
		_ = f.Close()
		k.exchangeable(path, name)
	}
}

// exchangeable checks that not everybody can put something else where name is.
func (k *checker) exchangeable(path, name string) {
	if err := harden.Exchangeable(name); err != nil {
		k.addf(path, "%v", err)
	}
}

// parent checks that the directory of a file to be made exists.
func (k *checker) parent(path, name string) {
	dir := filepath.Dir(name)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		k.addf(path, "the directory %s does not exist; make it first: mkdir -m 700 %s", dir, dir)
		return
	}
	k.exchangeable(path, name)
}

func (k *checker) tls() {
	t := k.c.TLS
	if k.required("tls.cert_file", t.CertFile, "the PEM file of the server's certificate and its chain") {
		k.file("tls.cert_file", t.CertFile, writeByAll)
	}
	if k.required("tls.key_file", t.KeyFile, "the PEM file of the server's private key") {
		k.file("tls.key_file", t.KeyFile, readByAll)
	}
	k.word("tls.min_version", t.MinVersion, "1.2", "1.3")
	k.word("tls.client_auth", t.ClientAuth, ClientAuthNone, ClientAuthOptional, ClientAuthRequired)
	k.file("tls.client_ca_file", t.ClientCAFile, writeByAll)
	asks := t.ClientAuth != ClientAuthNone
	switch {
	case asks && t.ClientCAFile == "":
		k.addf("tls.client_ca_file", "is missing; with client_auth %q it names the PEM file of the CAs that issue client certificates", strictyaml.Clip(t.ClientAuth))
	case !asks && t.ClientCAFile != "":
		k.addf("tls.client_auth", "is \"none\", yet client_ca_file is given; set it to %q or %q, or remove client_ca_file", ClientAuthOptional, ClientAuthRequired)
	}
	for i, f := range t.CRLFiles {
		k.file(fmt.Sprintf("tls.crl_files[%d]", i), f, writeByAll)
	}
	if !asks && len(t.CRLFiles) > 0 {
		k.addf("tls.crl_files", "has no effect while client_auth is \"none\"; remove it or ask for certificates")
	}
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (k *checker) tokens() {
	if len(k.c.Tokens) == 0 {
		k.addf("tokens", "is missing; list at least one HSM token: name, module, label or serial, pin_file or pin_env")
	}
	names := map[string]bool{}
	for i := range k.c.Tokens {
		t, at := &k.c.Tokens[i], fmt.Sprintf("tokens[%d]", i)
		if keys.CheckName(t.Name) != nil {
			k.addf(at+".name", "must be 1 to %d of a-z, 0-9 and inner '-'; it stands in keys, metrics and logs", keys.MaxNameLen)
		}
		if t.Name != "" && names[t.Name] {
			k.addf(at+".name", "%q names two tokens; the names must differ", t.Name)
		}
		names[t.Name] = true
		if k.required(at+".module", t.Module, "the path of the vendor's PKCS#11 library (.so)") {
			k.file(at+".module", t.Module, writeByAll)
		}
		if t.Label == "" && t.Serial == "" && !k.broken[at+".label"] && !k.broken[at+".serial"] {
			k.addf(at, "give the label or the serial of the token, or both; exactly one token must match")
		}
		k.pin(at, t)
		k.count(at+".sessions", t.Sessions, 1, 1024)
		k.count(at+".max_stuck", t.MaxStuck, 0, 1024)
		k.between(at+".session_wait", t.SessionWait, time.Millisecond, 5*time.Minute)
		k.between(at+".stuck_after", t.StuckAfter, time.Second, time.Hour)
		k.between(at+".canary_interval", t.CanaryInterval, time.Second, 10*time.Minute)
		k.word(at+".gcm_iv", t.GCMIV, "caller", "hsm-param", "hsm-appended")
	}
}

func (k *checker) pin(at string, t *Token) {
	switch {
	case k.broken[at+".pin_file"], k.broken[at+".pin_env"]:
		return
	case (t.PINFile == "") == (t.PINEnv == ""):
		k.addf(at, "give either pin_file or pin_env; the PIN itself never stands in this file")
		return
	case t.PINEnv != "":
		if !envName.MatchString(t.PINEnv) {
			k.addf(at+".pin_env", "must be the name of an environment variable that holds the PIN, not the PIN itself")
			return
		}
		if os.Getenv(t.PINEnv) == "" {
			k.addf(at+".pin_env", "the environment variable that it names is empty or not set; it must hold the PIN")
		}
		return
	}
	info, err := os.Stat(t.PINFile)
	switch {
	case err != nil:
		k.addf(at+".pin_file", "names a file that does not exist or cannot be reached; it must hold the PIN")
	case info.IsDir():
		k.addf(at+".pin_file", "names a directory; it must be a file that holds the PIN")
	case !info.Mode().IsRegular():
		k.addf(at+".pin_file", "is no regular file; it must be a file that holds the PIN")
	case !harden.SecretMode(info):
		k.addf(at+".pin_file", "%s has the mode %04o: others may read the PIN; run: chmod 600 %s (or, where root owns it and the gateway's group is to read it: chmod 640)", t.PINFile, info.Mode().Perm(), t.PINFile)
	default:
		k.exchangeable(at+".pin_file", t.PINFile)
		pin, err := t.PIN()
		clear(pin)
		if err != nil {
			k.addf(at+".pin_file", "%v", err)
		}
	}
}

func (k *checker) limits() {
	l, r := k.c.Limits, k.c.Request
	k.count("limits.requests_per_second", l.RequestsPerSecond, 0, 1e7)
	k.count("limits.burst", l.Burst, 0, 1e7)
	k.count("limits.in_flight", l.InFlight, 0, 1e6)
	k.count("limits.failed_logins_per_minute", l.FailedLoginsPerMinute, 1, 1e6)
	k.count("limits.failed_login_burst", l.FailedLoginBurst, 1, 1e6)
	k.count("limits.failed_decrypts_per_minute", l.FailedDecryptsPerMinute, 1, 1e6)
	k.count("limits.failed_decrypt_burst", l.FailedDecryptBurst, 1, 1e6)
	k.size("request.max_body", r.MaxBody)
	if _, given := k.c.lines["request.max_batch_body"]; given {
		k.size("request.max_batch_body", r.MaxBatchBody)
		if r.MaxBatchBody < r.MaxBody {
			k.addf("request.max_batch_body", "is less than max_body")
		}
	}
	k.count("request.max_in_flight", r.MaxInFlight, 1, 1e6)
	k.between("request.timeout", r.Timeout, time.Second, 10*time.Minute)
}

func (k *checker) size(path string, got strictyaml.Size) {
	if got < 1<<10 || got > 1<<30 {
		k.addf(path, "is %dB; it must be between 1KiB and 1GiB", got)
	}
}
