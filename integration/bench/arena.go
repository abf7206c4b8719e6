package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/softhsm"
)

// keys of the arena, by operation.
var benchKeys = map[string]api.CreateKeyRequest{
	"es256":   {Name: "bench-es256", Algorithm: "ES256"},
	"rs256":   {Name: "bench-rs256", Algorithm: "RS256", Bits: 2048},
	"encrypt": {Name: "bench-encrypt", Algorithm: "A256GCM"},
}

func label(op string) string { return benchKeys[op].Name + ".v1" }

// arena is the gateway and the bare handler, each a process of its own over
// one token.
type arena struct {
	dir       string
	gateway   *exec.Cmd
	bareCmd   *exec.Cmd
	bareStdin io.Closer
	env       []string // for children that use the token
	target    target   // the gateway
	bare      target
	es256     *ecdsa.PublicKey
}

func startArena(ctx context.Context, keyholed, dir string) (*arena, error) {
	a, err := startGateway(ctx, keyholed, dir, "")
	if err != nil {
		return nil, err
	}
	if err := a.startBare(); err != nil {
		a.stop()
		return nil, err
	}
	a.bare.tls = a.target.tls
	return a, nil
}

// startGateway starts the gateway alone, with its audit log in auditDir ("":
// in its own directory).
func startGateway(ctx context.Context, keyholed, dir, auditDir string) (_ *arena, err error) {
	a := &arena{dir: dir}
	defer func() {
		if err != nil {
			a.stop()
		}
	}()
	addr, err := a.launch(ctx, keyholed)
	if err != nil {
		return nil, err
	}
	if auditDir != "" { // the first start has written the configuration
		a.stop()
		if err := a.moveAudit(auditDir); err != nil {
			return nil, err
		}
		if addr, err = a.launch(ctx, keyholed); err != nil {
			return nil, err
		}
	}
	if err := a.makeKeys(ctx, addr); err != nil {
		return nil, err
	}
	pool, err := certPool(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	jwt, err := os.ReadFile(filepath.Join(dir, "agent.jwt"))
	if err != nil {
		return nil, err
	}
	tlsConfig := &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13}
	a.target = target{addr: strings.TrimPrefix(addr, "https://"), tls: tlsConfig, bearer: strings.TrimSpace(string(jwt))}
	return a, nil
}

// launch starts the gateway's process and returns its address.
func (a *arena) launch(ctx context.Context, keyholed string) (addr string, err error) {
	log, err := os.Create(a.dir + ".log")
	if err != nil {
		return "", err
	}
	defer log.Close()
	a.gateway = exec.Command(keyholed, "dev", "--dir", a.dir, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
	a.gateway.Stdout, a.gateway.Stderr = log, log
	if err := a.gateway.Start(); err != nil {
		return "", fmt.Errorf("%w (`make build` makes it)", err)
	}
	addr, err = awaitFile(ctx, filepath.Join(a.dir, "keyhole.addr"), a.gateway)
	if err != nil {
		tail, _ := os.ReadFile(a.dir + ".log")
		return "", fmt.Errorf("the gateway did not start: %w\n%s", err, tail)
	}
	return addr, nil
}

// moveAudit gives the gateway, which does not run, another audit directory.
func (a *arena) moveAudit(auditDir string) error {
	path := filepath.Join(a.dir, "keyhole.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	const own = "  dir: audit\n"
	if !bytes.Contains(text, []byte(own)) {
		return errors.New("the development configuration has no audit.dir to change")
	}
	text = bytes.Replace(text, []byte(own), fmt.Appendf(nil, "  dir: %q\n", auditDir), 1)
	if err := os.Remove(filepath.Join(a.dir, "keyhole.addr")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // the next start would be taken for ready at once
	}
	return os.WriteFile(path, text, 0o600)
}

func (a *arena) makeKeys(ctx context.Context, addr string) error {
	admin, err := client.New(client.Config{
		Address: addr, CACertFile: filepath.Join(a.dir, "ca.crt"), Token: client.TokenFile(filepath.Join(a.dir, "admin.jwt")),
	})
	if err != nil {
		return err
	}
	defer admin.Close()
	for op, req := range benchKeys {
		k, err := admin.CreateKey(ctx, req)
		if err != nil {
			return err
		}
		if op == "es256" {
			block, _ := pem.Decode([]byte(k.Versions[0].PublicKey))
			pub, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return err
			}
			a.es256 = pub.(*ecdsa.PublicKey)
		}
	}
	install, err := softhsm.Find()
	if err != nil {
		return err
	}
	a.env = append(os.Environ(),
		"SOFTHSM2_CONF="+filepath.Join(a.dir, "softhsm2.conf"),
		"BENCH_MODULE="+install.Module, "BENCH_DIR="+a.dir)
	return nil
}

func (a *arena) startBare() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	a.bareCmd = exec.Command(self, "-role", "bare")
	a.bareCmd.Env, a.bareCmd.Stderr = a.env, os.Stderr
	if a.bareStdin, err = a.bareCmd.StdinPipe(); err != nil {
		return err
	}
	out, err := a.bareCmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := a.bareCmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("the bare handler did not start: %w", err)
	}
	a.bare.addr = strings.TrimSpace(line)
	return nil
}

func (a *arena) stop() {
	if a.bareStdin != nil {
		_ = a.bareStdin.Close()
		_ = a.bareCmd.Wait()
	}
	if a.gateway != nil && a.gateway.Process != nil {
		_ = a.gateway.Process.Signal(syscall.SIGTERM)
		_ = a.gateway.Wait()
	}
}

// checkGateway makes sure that what is measured is a signature that holds.
func (a *arena) checkGateway(ctx context.Context) error {
	payload := []byte("is this the real thing?")
	body, err := json.Marshal(api.SignRequest{Payload: payload})
	if err != nil {
		return err
	}
	answer, err := a.target.once(ctx, "/v1/keys/bench-es256/sign", body)
	if err != nil {
		return err
	}
	var res api.SignResponse
	if err := json.Unmarshal(answer, &res); err != nil {
		return err
	}
	digest := sha256.Sum256(payload)
	if len(res.Signature) != 64 || !ecdsa.Verify(a.es256, digest[:], new(big.Int).SetBytes(res.Signature[:32]), new(big.Int).SetBytes(res.Signature[32:])) {
		return errors.New("the gateway's signature does not hold")
	}
	return nil
}

// awaitFile returns what a file holds once it is there.
func awaitFile(ctx context.Context, path string, writer *exec.Cmd) (string, error) {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			return strings.TrimSpace(string(b)), nil
		}
		if writer.Process.Signal(syscall.Signal(0)) != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return "", fmt.Errorf("%s was not written", filepath.Base(path))
}

func certPool(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return pool, nil
}
