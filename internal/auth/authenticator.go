package auth

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// CertificateScheme is the scheme of the URI names (SAN) in client certificates
// that stand for an app or a node: sluice://app/NAME, sluice://node/NAME, the
// name path-escaped. Other names in a certificate mean nothing here.
const CertificateScheme = "sluice"

// Authenticator says who a caller is, from the snapshot alone: it answers from
// memory, without the control plane, and a revoked token ends with the snapshot
// that no longer has it. It may be used by any number of goroutines.
type Authenticator struct {
	// dev lets callers without a credential in, from the loopback only.
	dev   bool
	snaps *snapshot.Holder
	now   func() time.Time
}

// New makes an Authenticator; dev is the flag --dev.
func New(dev bool, snaps *snapshot.Holder, now func() time.Time) *Authenticator {
	return &Authenticator{dev: dev, snaps: snaps, now: now}
}

var errUnauthenticated = fault.New(fault.Unauthenticated, "no valid credential")

// Authenticate takes the bearer token ("" for none), the TLS state (nil without
// TLS; its PeerCertificates count only where they were verified) and the
// caller's address. A token that is given must be valid, even where a
// certificate or --dev would do: a typing error must not go unnoticed. Every
// failure is fault.Unauthenticated.
//
// Before the first administrator exists only nodes' certificates and --dev are taken.
func (a *Authenticator) Authenticate(_ context.Context, token string, state *tls.ConnectionState, remote net.Addr) (Who, error) {
	switch {
	case token != "":
		return a.byToken(token)
	case state != nil && len(state.VerifiedChains) > 0:
		who, ok := byCertificate(state.PeerCertificates[0])
		if ok && (who.Node != "" || a.snaps.Current().SetupDone) {
			return who, nil
		}
	}
	if a.dev && isLoopback(remote) {
		return Who{Anonymous: true}, nil
	}
	return Who{}, errUnauthenticated
}

func (a *Authenticator) byToken(token string) (Who, error) {
	hash := Hash(token)
	t := a.snaps.Current().Tokens[hash]
	// The look-up depends on the hash, which a caller cannot choose without knowing
	// the token; the comparison is constant in time all the same.
	if t == nil || subtle.ConstantTimeCompare(t.Hash[:], hash[:]) != 1 {
		return Who{}, errUnauthenticated
	}
	if !t.Expires.IsZero() && !a.now().Before(t.Expires) {
		return Who{}, errUnauthenticated
	}
	switch t.Kind {
	case KindApp:
		return Who{App: t.App}, nil
	case KindAdmin:
		return Who{Admin: true}, nil
	case KindNode:
		name := t.App
		if name == "" {
			name = t.ID
		}
		return Who{Node: name}, nil
	default: // of a newer release
		return Who{}, errUnauthenticated
	}
}

func byCertificate(cert *x509.Certificate) (Who, bool) {
	for _, u := range cert.URIs {
		if u.Scheme != CertificateScheme {
			continue
		}
		name, err := url.PathUnescape(strings.TrimPrefix(u.EscapedPath(), "/"))
		if err != nil || name == "" {
			continue
		}
		switch u.Host {
		case KindApp:
			return Who{App: name}, true
		case KindNode:
			return Who{Node: name}, true
		}
	}
	return Who{}, false
}

// isLoopback takes only addresses that are known to be of this machine: anything else is a stranger.
func isLoopback(remote net.Addr) bool {
	switch r := remote.(type) {
	case nil:
		return false
	case *net.TCPAddr:
		return r.IP.IsLoopback()
	default:
		ap, err := netip.ParseAddrPort(r.String())
		return err == nil && ap.Addr().Unmap().IsLoopback()
	}
}
