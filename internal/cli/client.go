package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/internal/telemetry"
	"github.com/sluice-mq/sluice/sdk/go"
)

// defaultServer is where `sluice server` listens.
const defaultServer = "127.0.0.1:7600"

// maxAnswerBytes is how large an answer of the admin API may be: a page of topics, or a message with its headers.
const maxAnswerBytes = 32 << 20

// target is a server and how to reach it: flag over environment over context over default.
type target struct {
	addresses []string
	token     string
	tls       *tls.Config // nil: in the clear
}

func (a *app) target() (target, error) {
	named, err := a.namedContext()
	if err != nil {
		return target{}, err
	}
	pick := func(flag, env, ctx string) string { return cmp.Or(flag, a.env[env], ctx) }
	t := target{token: pick(a.token, "SLUICE_TOKEN", named.Token)}
	servers := cmp.Or(pick(a.server, "SLUICE_SERVER", named.Server), defaultServer)
	for s := range strings.SplitSeq(servers, ",") {
		if s = strings.TrimSpace(s); s != "" {
			t.addresses = append(t.addresses, s)
		}
	}
	if len(t.addresses) == 0 {
		return t, usage("server %q: holds no address; use HOST:PORT", servers)
	}
	ca := pick(a.serverCA, "SLUICE_SERVER_CA", named.CA)
	cert := pick(a.clientCert, "SLUICE_CLIENT_CERT", named.Cert)
	key := pick(a.clientKey, "SLUICE_CLIENT_KEY", named.Key)
	t.tls, err = clientTLS(ca, cert, key)
	return t, err
}

func clientTLS(ca, cert, key string) (*tls.Config, error) {
	if ca == "" && cert == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" && ca != "system" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("server CA %s: %w", ca, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("server CA %s: holds no certificate; give a PEM file", ca)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w", cert, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// connect opens the SDK's client for messages.
func (a *app) connect(ctx context.Context) (*sluice.Client, error) {
	t, err := a.target()
	if err != nil {
		return nil, err
	}
	var opts []sluice.Option
	if t.token != "" {
		opts = append(opts, sluice.Token(t.token))
	}
	if t.tls != nil {
		opts = append(opts, sluice.TLS(t.tls))
	}
	return sluice.Connect(ctx, strings.Join(t.addresses, ","), append(opts, a.sdkOptions...)...)
}

// admin opens a connection for the admin API. The caller closes it.
func (a *app) admin() (adminv1.AdminServiceClient, *grpc.ClientConn, error) {
	t, err := a.target()
	if err != nil {
		return nil, nil, err
	}
	conn, err := dial(t)
	if err != nil {
		return nil, nil, err
	}
	return adminv1.NewAdminServiceClient(conn), conn, nil
}

// withAdmin runs f with a connection for the admin API.
func (a *app) withAdmin(f func(adminv1.AdminServiceClient) error) error {
	client, conn, err := a.admin()
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(client)
}

func dial(t target) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if t.tls != nil {
		creds = credentials.NewTLS(t.tls)
	}
	var addresses []resolver.Address
	for _, s := range t.addresses {
		addresses = append(addresses, resolver.Address{Addr: s})
	}
	// pick_first over all addresses: the first one that answers serves the command.
	r := manual.NewBuilderWithScheme("sluice")
	r.InitialState(resolver.State{Addresses: addresses})
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithResolvers(r),
		grpc.WithUserAgent("sluice-cli/" + telemetry.ReadBuild().Version),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
	}
	if t.token != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(t.token)))
	}
	host, _, _ := strings.Cut(t.addresses[0], "/")
	conn, err := grpc.NewClient("sluice:///"+host, opts...)
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", strings.Join(t.addresses, ","), err)
	}
	return conn, nil
}

// bearer sends a token with each call.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials. On the loopback there is no TLS; the server
// refuses to listen elsewhere without it, unless told to.
func (bearer) RequireTransportSecurity() bool { return false }
