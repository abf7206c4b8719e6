package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// raw repeats an operation on threads sessions for d and returns operations
// per second: what the token gives when nothing stands before it.
func raw(t *token, op operation, payload []byte, threads int, d time.Duration) (float64, error) {
	sessions := make([]pkcs11.SessionHandle, threads)
	for i := range sessions {
		var err error
		if sessions[i], err = t.session(); err != nil {
			return 0, err
		}
	}
	counts := make([]int, threads)
	errs := make(chan error, threads)
	start := time.Now()
	var wg sync.WaitGroup
	for i, s := range sessions {
		wg.Go(func() {
			for time.Since(start) < d {
				if _, err := op(s, payload); err != nil {
					errs <- err
					return
				}
				counts[i]++
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	select {
	case err := <-errs:
		return 0, err
	default:
	}
	n := 0
	for _, c := range counts {
		n += c
	}
	return float64(n) / took.Seconds(), nil
}

// serveBare is the handler that the gateway is measured against: TLS,
// encoding/json and one session per request from a channel. It
// authenticates nobody, decides nothing and records nothing. It prints its
// address and serves until standard input closes.
func serveBare(t *token, certFile, keyFile string, sessions int, labels map[string]string) error {
	pool := make(chan pkcs11.SessionHandle, sessions)
	for range sessions {
		s, err := t.session()
		if err != nil {
			return err
		}
		pool <- s
	}
	mux := http.NewServeMux()
	for name, label := range labels {
		op, err := t.operation(name, label)
		if err != nil {
			return err
		}
		mux.HandleFunc("POST /"+name, bare(pool, op))
		mux.HandleFunc("POST /"+name+"/batch", bareBatch(pool, op))
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
	}
	go func() {
		var b [1]byte
		_, _ = os.Stdin.Read(b[:]) // ends with the parent
		_ = server.Close()
	}()
	if err := server.ServeTLS(l, "", ""); err != http.ErrServerClosed {
		return err
	}
	return nil
}

type bareRequest struct {
	Payload   []byte `json:"payload"`
	Plaintext []byte `json:"plaintext"`
}

func (r *bareRequest) input() []byte {
	if r.Plaintext != nil {
		return r.Plaintext
	}
	return r.Payload
}

type bareResponse struct {
	Output []byte `json:"output"`
}

func bare(pool chan pkcs11.SessionHandle, op operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in bareRequest
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s := <-pool
		out, err := op(s, in.input())
		pool <- s
		answer(w, bareResponse{out}, err)
	}
}

func bareBatch(pool chan pkcs11.SessionHandle, op operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Items []bareRequest `json:"items"`
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out := make([]bareResponse, len(in.Items))
		s := <-pool
		var err error
		for i := range in.Items {
			if out[i].Output, err = op(s, in.Items[i].input()); err != nil {
				break
			}
		}
		pool <- s
		answer(w, map[string]any{"items": out}, err)
	}
}

func answer(w http.ResponseWriter, body any, err error) {
	b, merr := json.Marshal(body)
	if err != nil || merr != nil {
		http.Error(w, "failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	_, _ = w.Write(b)
}
