package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const canary = "canary-7f3a"

func TestSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	s := New(canary)
	type inner struct{ hidden Secret }
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", &s)
		fmt.Fprintf(&out, verb+"\n", inner{s})
		fmt.Fprintf(&out, verb+"\n", struct{ Password Secret }{s})
	}
	b, err := json.Marshal(map[string]any{"password": s, "p": &s})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "password", s, "in", inner{s})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "password", s, "in", struct{ P Secret }{s})
	func() {
		defer func() { fmt.Fprint(&out, recover()) }()
		panic(s)
	}()
	if got := out.String(); strings.Contains(got, canary) || strings.Contains(got, fmt.Sprintf("%x", canary)) {
		t.Errorf("the secret is shown: %s", got)
	}
	if s.Reveal() != canary || !s.Equal(New(canary)) || s.Equal(New("other")) {
		t.Error("the value is lost")
	}
}

func box(t testing.TB, b byte) *Box {
	t.Helper()
	x, err := NewBox(bytes.Repeat([]byte{b}, KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestBoxOpensOnlyAtItsPlace(t *testing.T) {
	t.Parallel()
	b := box(t, 1)
	rapid.Check(t, func(t *rapid.T) {
		p := Place{rapid.String().Draw(t, "table"), rapid.String().Draw(t, "row"), rapid.String().Draw(t, "column")}
		plain := rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "plain")
		sealed, err := b.Seal(p, plain)
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.Open(p, sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("open: %q, %v", got, err)
		}
		q := Place{rapid.String().Draw(t, "table2"), rapid.String().Draw(t, "row2"), rapid.String().Draw(t, "column2")}
		if q != p {
			if _, err := b.Open(q, sealed); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("opened at another place: %v", err)
			}
		}
		i := rapid.IntRange(0, len(sealed)*8-1).Draw(t, "bit")
		sealed[i/8] ^= 1 << (i % 8)
		if _, err := b.Open(p, sealed); err == nil {
			t.Fatalf("opened with bit %d flipped", i)
		}
	})
}

func TestBoxRotation(t *testing.T) {
	t.Parallel()
	p := Place{"clusters", "a/b", "password"}
	old := box(t, 1)
	sealed, err := old.Seal(p, []byte(canary))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := box(t, 2).Open(p, sealed); !errors.Is(err, ErrKey) {
		t.Errorf("another key: %v, want ErrKey", err)
	}
	both, err := NewBox(bytes.Repeat([]byte{2}, KeyBytes), bytes.Repeat([]byte{1}, KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := both.Open(p, sealed); err != nil || string(got) != canary {
		t.Errorf("old key beside the new one: %q, %v", got, err)
	}
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret.key")
	if _, err := LoadOrCreateKey(path, false); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Fatalf("missing key while values are sealed: %v", err)
	}
	key, err := LoadOrCreateKey(path, true)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	again, err := LoadOrCreateKey(path, false)
	if err != nil || !bytes.Equal(key, again) {
		t.Fatalf("second load: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(path); err == nil {
		t.Error("a key that others may read is taken")
	}
}

func FuzzOpen(f *testing.F) {
	b := box(f, 1)
	p := Place{"t", "r", "c"}
	good, err := b.Seal(p, []byte("plain"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		got, err := b.Open(p, sealed)
		if err == nil && len(sealed) > 0 && string(got) != "plain" { // seeds of another run differ in the nonce
			t.Errorf("opened a forgery as %q", got)
		}
	})
}
