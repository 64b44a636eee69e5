package auth

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

var (
	start    = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	loopback = &net.TCPAddr{IP: net.ParseIP("127.0.0.1"), Port: 1}
	stranger = &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 1}
)

func TestTokenForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]string{KindApp, KindAdmin, KindNode, KindSetup}).Draw(t, "kind")
		token, err := NewToken(kind)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := TokenKind(token); err != nil || got != kind {
			t.Fatalf("TokenKind(%q) = %q, %v", token, got, err)
		}
		i := rapid.IntRange(0, len(token)-1).Draw(t, "i")
		c := rapid.SampledFrom([]byte(alphabet)).Draw(t, "c")
		if changed := token[:i] + string(c) + token[i+1:]; changed != token {
			if _, err := TokenKind(changed); err == nil {
				t.Fatalf("byte %d changed: taken", i)
			}
		}
	})
}

func FuzzTokenKind(f *testing.F) {
	token, err := NewToken(KindApp)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("slc_app_")
	f.Fuzz(func(t *testing.T, s string) {
		if kind, err := TokenKind(s); err == nil && !strings.HasPrefix(s, tokenPrefix+kind+"_") {
			t.Errorf("%q is taken as %s", s, kind)
		}
	})
}

func fixture(t *testing.T, dev bool, tokens ...*snapshot.Token) (*Authenticator, *snapshot.Holder, *time.Time) {
	t.Helper()
	h := snapshot.NewHolder(nil)
	set(t, h, 1, tokens...)
	now := start
	return New(dev, h, func() time.Time { return now }), h, &now
}

func set(t *testing.T, h *snapshot.Holder, version uint64, tokens ...*snapshot.Token) {
	t.Helper()
	s := &snapshot.Snapshot{Version: version, StoreID: "s", SetupDone: true, Tokens: map[[32]byte]*snapshot.Token{}}
	for _, k := range tokens {
		s.Tokens[k.Hash] = k
	}
	if err := h.Set(s); err != nil {
		t.Fatal(err)
	}
}

func TestTokensStandForTheirOwners(t *testing.T) {
	t.Parallel()
	one := &snapshot.Token{ID: "1", App: "a/b", Kind: KindApp, Hash: Hash("one")}
	two := &snapshot.Token{ID: "2", App: "a/b", Kind: KindApp, Hash: Hash("two"), Expires: start.Add(time.Hour)}
	admin := &snapshot.Token{ID: "3", Kind: KindAdmin, Hash: Hash("admin")}
	node := &snapshot.Token{ID: "4", App: "n1", Kind: KindNode, Hash: Hash("node")}
	future := &snapshot.Token{ID: "5", Kind: "robot", Hash: Hash("future")}
	a, h, now := fixture(t, true, one, two, admin, node, future)
	check := func(token string, want Who, ok bool) {
		t.Helper()
		// --dev from the loopback must not make up for a bad token.
		got, err := a.Authenticate(t.Context(), token, nil, loopback)
		if (err == nil) != ok || got != want {
			t.Errorf("token %s: %+v, %v; want %+v", token, got, err, want)
		}
		if err != nil && fault.ReasonOf(err) != fault.Unauthenticated {
			t.Errorf("token %s: reason %s", token, fault.ReasonOf(err))
		}
	}
	check("one", Who{App: "a/b"}, true)
	check("two", Who{App: "a/b"}, true) // both valid: rotation
	check("admin", Who{Admin: true}, true)
	check("node", Who{Node: "n1"}, true)
	check("future", Who{}, false)
	check("unknown", Who{}, false)
	*now = start.Add(time.Hour)
	check("two", Who{}, false)
	set(t, h, 2, two, admin)
	check("one", Who{}, false) // revoked
}

func TestAnonymousOnlyInDevFromLoopback(t *testing.T) {
	t.Parallel()
	for _, dev := range []bool{true, false} {
		a, _, _ := fixture(t, dev)
		for _, remote := range []net.Addr{loopback, &net.TCPAddr{IP: net.ParseIP("::1")}, &net.TCPAddr{IP: net.ParseIP("::ffff:127.0.0.1")}, stranger, nil, &net.UnixAddr{Name: "@"}} {
			local := remote != nil && remote != net.Addr(stranger) && remote.Network() == "tcp"
			who, err := a.Authenticate(t.Context(), "", nil, remote)
			if want := dev && local; (err == nil) != want || who.Anonymous != want {
				t.Errorf("dev %v from %v: %+v, %v", dev, remote, who, err)
			}
		}
	}
}

func TestCertificatesNameAppsAndNodes(t *testing.T) {
	t.Parallel()
	a, _, _ := fixture(t, false)
	for uri, want := range map[string]Who{
		"sluice://app/a%2Fb":     {App: "a/b"},
		"sluice://node/n1":       {Node: "n1"},
		"sluice://admin/x":       {},
		"https://app/x":          {},
		"sluice://app/":          {},
		"sluice://app/%E6%97%A5": {App: "日"},
	} {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		cert := &x509.Certificate{URIs: []*url.URL{u}}
		verified := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
		got, err := a.Authenticate(t.Context(), "", verified, stranger)
		if d := cmp.Diff(want, got); d != "" || (err == nil) != (want != Who{}) {
			t.Errorf("%s: %v %s", uri, err, d)
		}
		if _, err := a.Authenticate(t.Context(), "", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}, stranger); err == nil {
			t.Errorf("%s: an unverified certificate was taken", uri)
		}
	}
}
