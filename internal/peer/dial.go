// Package peer is the calling side between nodes: Pool asks neighbours (settle,
// pull, status), Control follows the control plane (join, snapshots, first
// uses). The answering side is rpc/peer.
//
// Connections are made when they are used and kept. Every call has a deadline,
// and its error is a *fault.Error that keeps MaybeSent.
package peer

import (
	"context"
	"crypto/tls"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Dial says how this node proves itself to others.
type Dial struct {
	// Token is a token of kind node; empty where the client certificate in TLS
	// says who the node is, or with --dev on the loopback.
	Token secret.Secret
	// TLS is nil for plain connections, which only the loopback should see.
	TLS *tls.Config
}

// Bounds of a connection.
const (
	maxReceiveBytes = snapshot.MaxBytes + 1<<20
	maxReconnect    = 2 * time.Second
	pingEvery       = 10 * time.Second
	pingTimeout     = 3 * time.Second
)

// connect makes a connection that dials at its first call.
func (d Dial) connect(addr string) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if d.TLS != nil {
		creds = credentials.NewTLS(d.TLS)
	}
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 100*time.Millisecond, maxReconnect
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: pingTimeout}),
		// A dead host sends no reset: the ping finds it.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceiveBytes)),
		grpc.WithDisableServiceConfig(), // what is sent again is decided here, never by gRPC
	)
}

// proven adds the node's credential to a call.
func (d Dial) proven(ctx context.Context) context.Context {
	if d.Token.IsZero() {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+d.Token.Reveal())
}

// bounded gives a call a deadline where it has none, or a later one.
func bounded(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, most)
}

// FaultOf is the error behind its wire form, nil for nil. A reason of a newer release counts as internal.
func FaultOf(p *sluicev1.Error) *fault.Error {
	if p == nil {
		return nil
	}
	e := &fault.Error{
		Reason: fault.Internal, Text: p.GetMessage(),
		RetryAfter: time.Duration(p.GetRetryAfterMs()) * time.Millisecond, MaybeSent: p.GetMaybeSent(),
	}
	if name, ok := sluicev1.Reason_name[int32(p.GetReason())]; ok && p.GetReason() != sluicev1.Reason_REASON_UNSPECIFIED {
		// The reasons of fault are by definition the names of the enum.
		e.Reason = fault.Reason(strings.ToLower(strings.TrimPrefix(name, "REASON_")))
	}
	return e
}

// faultOfCall is what a failed call to a node means. Without a word from the
// node nobody knows how far the call came.
func faultOfCall(err error, node string) *fault.Error {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if p, ok := d.(*sluicev1.Error); ok {
			return FaultOf(p)
		}
	}
	e := fault.Wrap(err, fault.Unavailable, "node %s does not answer: %s", node, st.Message())
	e.MaybeSent = true
	switch st.Code() {
	case codes.DeadlineExceeded:
		e.Reason = fault.DeadlineExceeded
	case codes.Canceled:
		e.Reason = fault.Cancelled
	case codes.Unauthenticated, codes.PermissionDenied:
		e.Reason, e.MaybeSent = fault.PermissionDenied, false
		e.Text = "node " + node + " refuses this node: " + st.Message() + "; check the node's token or certificate"
	case codes.Unimplemented:
		e.Reason, e.MaybeSent = fault.Unsupported, false
	default: // it stays unavailable
	}
	return e
}
