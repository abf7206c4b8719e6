package store_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/storetest"
)

// The test binary runs itself as another process that uses the same store;
// these say what that process does, and with which file.
const (
	childEnv      = "KEYHOLE_STORE_TEST_CHILD"
	childPath     = "KEYHOLE_STORE_TEST_PATH"     // a file, or the URL of a database
	childPassword = "KEYHOLE_STORE_TEST_PASSWORD" // a file
)

func TestMain(m *testing.M) {
	act := map[string]func(ctx context.Context, path string) error{
		"":       nil,
		"commit": commitForever,
		"open":   openOnce,
	}[os.Getenv(childEnv)]
	if act == nil {
		goleak.VerifyTestMain(m)
	}
	if err := act(context.Background(), os.Getenv(childPath)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(tb testing.TB, act, path string) *exec.Cmd {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+act, childPath+"="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

// openAny opens the store that a child is to use.
func openAny(ctx context.Context, path string) (store.Store, error) {
	if strings.HasPrefix(path, "postgres://") {
		return store.OpenPostgres(ctx, store.PostgresConfig{
			URL: path, Password: func() ([]byte, error) { return os.ReadFile(os.Getenv(childPassword)) }, Timeout: time.Minute,
		}, seal)
	}
	return store.OpenSQLite(ctx, path, seal)
}

// commitForever changes a key and its rotation, over and over, and prints
// each epoch once the store has acknowledged it.
func commitForever(ctx context.Context, path string) error {
	s, err := openAny(ctx, path)
	if err != nil {
		return err
	}
	k, err := s.Key(ctx, "payments")
	if err != nil {
		return err
	}
	r, err := s.Rotation(ctx, "rotation")
	if err != nil {
		return err
	}
	for {
		next, rotation := storetest.Step(k, func(k *keys.Key) {
			v := storetest.Reserved(k.Latest().Number + 1)
			k.Versions = append(k.Versions, v)
		}), *r
		rotation.Error = fmt.Sprint(next.Epoch)
		notice := keys.Notice{Type: keys.NoticeAnnounced, At: time.Now(), Key: next.Name, Version: next.Latest().Number}
		c := store.Change{Key: next, FromEpoch: k.Epoch, Rotation: &rotation, Notices: []keys.Notice{notice, notice}}
		if err := s.Commit(ctx, c); err != nil {
			return err
		}
		fmt.Println(next.Epoch)
		k = next
	}
}

// openOnce waits for a line on its standard input, opens the store and makes
// a key of its own.
func openOnce(ctx context.Context, path string) error {
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	s, err := openAny(ctx, path)
	if err != nil {
		return err
	}
	if err := s.Commit(ctx, store.Change{Key: storetest.NewKey(fmt.Sprint("process-", os.Getpid()), 1)}); err != nil {
		return err
	}
	return s.Close()
}
