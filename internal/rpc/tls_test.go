package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// authority is a CA of the test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue makes a pair in PEM.
func (a *authority) issue(serial int64, name string) (cert, key []byte) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kder})
}

// swapped is a folder that is mounted as Kubernetes does it: files are links through "data", which is a link that is
// replaced as a whole.
type swapped struct {
	t    *testing.T
	dir  string
	next int
}

func (s *swapped) put(files map[string][]byte) {
	s.t.Helper()
	s.next++
	real := filepath.Join(s.dir, "v"+string(rune('a'+s.next)))
	if err := os.Mkdir(real, 0o700); err != nil {
		s.t.Fatal(err)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(real, name), b, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	tmp := filepath.Join(s.dir, "tmp")
	if err := os.Symlink(real, tmp); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, "data")); err != nil {
		s.t.Fatal(err)
	}
}

func (s *swapped) path(name string) string { return filepath.Join(s.dir, "data", name) }

func serialOf(t *testing.T, addr string, cfg *tls.Config) (*big.Int, error) {
	t.Helper()
	c, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber, nil
}

func TestCertificateSwapIsServedWithoutAnError(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	folder := &swapped{t: t, dir: t.TempDir()}
	cert, key := ca.issue(10, "node")
	folder.put(map[string][]byte{"crt": cert, "key": key, "ca": ca.pem})

	cfg := DefaultConfig()
	cfg.TLS = TLS{Cert: folder.path("crt"), Key: folder.path("key"), CA: folder.path("ca")}
	cfg.Recheck = 10 * time.Millisecond // files: every 200 ms
	s := serve(t, cfg, nil, &calls{publish: func(ctx context.Context, _ *sluicev1.PublishRequest) (*sluicev1.PublishResponse, error) {
		return &sluicev1.PublishResponse{Places: []*sluicev1.Place{{Cluster: Who(ctx).App}}}, nil
	}})
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	client := &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"h2"}}

	// Calls go on all the time, on old and new connections.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 8 {
		conn := dial(t, s, grpc.WithTransportCredentials(credentials.NewTLS(client.Clone())))
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := sluicev1.NewProducerServiceClient(conn).Publish(as(context.Background(), "app"), &sluicev1.PublishRequest{}); err != nil {
					t.Errorf("client %d call %d: %v", i, n, err)
					return
				}
			}
		})
	}
	for serial := int64(11); serial < 14; serial++ {
		cert, key := ca.issue(serial, "node")
		folder.put(map[string][]byte{"crt": cert, "key": key, "ca": ca.pem})
		if serial == 11 {
			if err := s.Reload(); err != nil { // as SIGHUP does; the others are found by the periodic check
				t.Fatal(err)
			}
		}
		for _, addr := range []string{s.GRPCAddr(), s.HTTPAddr()} {
			deadline := time.Now().Add(10 * time.Second)
			for {
				got, err := serialOf(t, addr, client)
				if err != nil {
					t.Fatal(err)
				}
				if got.Int64() == serial {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s serves serial %v, want %d", addr, got, serial)
				}
			}
		}
	}
	// A pair that does not fit leaves the old one.
	other, _ := ca.issue(99, "node")
	folder.put(map[string][]byte{"crt": other, "key": key, "ca": ca.pem})
	if err := s.Reload(); err == nil {
		t.Error("a certificate with another key was taken")
	}
	if got, err := serialOf(t, s.GRPCAddr(), client); err != nil || got.Int64() != 13 {
		t.Errorf("after a bad pair: %v, %v", got, err)
	}
	close(stop)
	wg.Wait()

	// A client certificate of the CA is who its name says; of another CA it is refused.
	mine, mineKey := ca.issue(50, "shop")
	pair, err := tls.X509KeyPair(mine, mineKey)
	if err != nil {
		t.Fatal(err)
	}
	mtls := client.Clone()
	mtls.Certificates = []tls.Certificate{pair}
	resp, err := sluicev1.NewProducerServiceClient(dial(t, s, grpc.WithTransportCredentials(credentials.NewTLS(mtls)))).Publish(t.Context(), &sluicev1.PublishRequest{})
	if err != nil || resp.GetPlaces()[0].GetCluster() != "shop" {
		t.Errorf("client certificate: %v, %v", resp, err)
	}
	foreign, foreignKey := newAuthority(t).issue(51, "shop")
	if pair, err = tls.X509KeyPair(foreign, foreignKey); err != nil {
		t.Fatal(err)
	}
	h1 := &tls.Config{RootCAs: pool, ServerName: "localhost", GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}
	tr := &http.Transport{TLSClientConfig: h1}
	defer tr.CloseIdleConnections()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+s.HTTPAddr()+"/healthz/live", nil)
	if resp, err := (&http.Client{Transport: tr}).Do(req); err == nil {
		resp.Body.Close()
		t.Error("a client certificate of another CA was taken")
	}
}
