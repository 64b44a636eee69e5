package rpc

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
)

// Authenticator says who a caller is; auth implements it. It is asked at each call and, while a stream lives, again
// every few seconds, so it must be cheap and answer from memory.
type Authenticator interface {
	// Authenticate takes the bearer token ("" for none), the TLS state (nil without TLS; PeerCertificates are verified
	// against the CA) and the client's address. Whatever is wrong with a credential is fault.Unauthenticated; the
	// caller of the API is never told more.
	Authenticate(ctx context.Context, token string, tls *tls.ConnectionState, remote net.Addr) (auth.Who, error)
}

// caller is what the context of a call knows of who makes it.
type caller struct {
	who    auth.Who
	token  string
	tls    *tls.ConnectionState
	remote net.Addr
	authn  Authenticator
}

type callerKey struct{}

// Who is the authenticated caller of a call; the zero Who for public ones.
func Who(ctx context.Context) auth.Who {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c.who
	}
	return auth.Who{}
}

// Recheck tells whether the caller's credential still holds. Calls that wait long ask before they hand out messages.
func Recheck(ctx context.Context) error {
	c, ok := ctx.Value(callerKey{}).(*caller)
	if !ok || c.authn == nil {
		return nil
	}
	return c.recheck(ctx)
}

func (c *caller) recheck(ctx context.Context) error {
	who, err := c.authn.Authenticate(ctx, c.token, c.tls, c.remote)
	if err != nil {
		return plainAuthError(err)
	}
	if who != c.who {
		return errUnauthenticated
	}
	return nil
}

// WithWho puts a caller into a context; for tests and for calls that a node makes of itself.
func WithWho(ctx context.Context, who auth.Who) context.Context {
	return context.WithValue(ctx, callerKey{}, &caller{who: who})
}

// authorize authenticates where the right asks for it.
func (s *Server) authorize(ctx context.Context, right Right, token string, state *tls.ConnectionState, remote net.Addr) (*caller, error) {
	if right == Public {
		return &caller{remote: remote}, nil
	}
	remote = plainAddr(remote)
	who, err := s.deps.Auth.Authenticate(ctx, token, state, remote)
	if err != nil {
		err = plainAuthError(err)
		s.metrics.unauthorized.WithLabelValues(string(fault.ReasonOf(err))).Inc()
		return nil, err
	}
	if !right.allows(who) {
		s.metrics.unauthorized.WithLabelValues(string(fault.PermissionDenied)).Inc()
		return nil, errDenied
	}
	return &caller{who: who, token: token, tls: state, remote: remote, authn: s.deps.Auth}, nil
}

// plainAuthError gives unknown, revoked and expired credentials one and the same answer.
func plainAuthError(err error) error {
	if fault.ReasonOf(err) == fault.Unauthenticated {
		return errUnauthenticated
	}
	return err
}

// authorizeGRPC does it from a call's metadata and peer.
func (s *Server) authorizeGRPC(ctx context.Context, method string) (*caller, error) {
	right := s.rights[method]
	var remote net.Addr
	var state *tls.ConnectionState
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr
		if ti, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			state = &ti.State
		}
	}
	var token string
	if vs := metadata.ValueFromIncomingContext(ctx, "authorization"); len(vs) > 0 {
		token = bearer(vs[0])
	}
	return s.authorize(ctx, right, token, state, remote)
}

// authorizeHTTP does it from a request.
func (s *Server) authorizeHTTP(r *http.Request, right Right) (*caller, error) {
	var remote net.Addr
	if a, ok := r.Context().Value(remoteAddrKey{}).(net.Addr); ok {
		remote = a
	}
	return s.authorize(r.Context(), right, bearer(r.Header.Get("Authorization")), r.TLS, remote)
}

// bearer takes the token out of an Authorization header; "" where it is of another scheme.
func bearer(header string) string {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

type remoteAddrKey struct{}

// connAddr is a client's address that remembers when the connection was accepted. gRPC hands a connection's
// address to every call, and nothing else of it without a stats handler, which costs on each message.
type connAddr struct {
	net.Addr
	born time.Time
}

func plainAddr(a net.Addr) net.Addr {
	if c, ok := a.(*connAddr); ok {
		return c.Addr
	}
	return a
}

// ConnectionBorn is when the connection of a gRPC call was accepted; false where that is unknown.
func ConnectionBorn(ctx context.Context) (time.Time, bool) {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.Addr.(*connAddr); ok {
			return c.born, true
		}
	}
	return time.Time{}, false
}
