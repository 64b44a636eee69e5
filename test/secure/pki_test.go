// Package secure drives the real binary the way a guarded installation runs it: without --dev, with TLS, tokens and
// client certificates, against Kafka with SASL and TLS, and under abuse of its limits.
package secure

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority is a CA of the test's own.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// file is the CA's certificate in PEM form.
	file string
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = filepath.Join(a.dir, "ca.pem")
	write(t, a.file, pemOf("CERTIFICATE", der))
	return a
}

// usage says what a certificate is good for.
type usage int

const (
	forServer usage = iota
	forClient
	forBoth
)

// pair is a certificate and its key, in PEM form.
type pair struct {
	cert, key []byte
	serial    *big.Int
}

// issue makes a certificate for this machine's loopback, with URI names.
func (a *authority) issue(u usage, uris ...string) pair {
	a.t.Helper()
	c := &x509.Certificate{
		SerialNumber: serial(a.t), Subject: pkix.Name{CommonName: "sluice test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if u != forClient {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		c.IPAddresses, c.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	}
	if u != forServer {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	for _, s := range uris {
		parsed, err := url.Parse(s)
		if err != nil {
			a.t.Fatal(err)
		}
		c.URIs = append(c.URIs, parsed)
	}
	key := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pair{cert: pemOf("CERTIFICATE", der), key: pemOf("PRIVATE KEY", pkcs8), serial: c.SerialNumber}
}

// files writes a pair into a folder of its own.
func (a *authority) files(p pair) (cert, key string) {
	a.t.Helper()
	dir, err := os.MkdirTemp(a.dir, "pair-")
	if err != nil {
		a.t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(a.t, cert, p.cert)
	write(a.t, key, p.key)
	return cert, key
}

// trust is a client's configuration that trusts this CA, and presents a pair where one is given.
func (a *authority) trust(client ...pair) *tls.Config {
	a.t.Helper()
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	c.RootCAs.AddCert(a.cert)
	for _, p := range client {
		k, err := tls.X509KeyPair(p.cert, p.key)
		if err != nil {
			a.t.Fatal(err)
		}
		c.Certificates = append(c.Certificates, k)
	}
	return c
}

// mounted are certificate files as Kubernetes mounts a secret: each file is a link through ..data, which is swapped at once.
type mounted struct {
	t    testing.TB
	dir  string
	next int
}

func (m *mounted) cert() string { return filepath.Join(m.dir, "tls.crt") }
func (m *mounted) key() string  { return filepath.Join(m.dir, "tls.key") }

// mount makes the folder with the first pair in it.
func mount(t testing.TB, p pair) *mounted {
	t.Helper()
	m := &mounted{t: t, dir: t.TempDir()}
	m.swap(p)
	for _, f := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", f), filepath.Join(m.dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// swap puts another pair in place, in one step.
func (m *mounted) swap(p pair) {
	m.t.Helper()
	m.next++
	version := fmt.Sprintf("..%d", m.next)
	if err := os.Mkdir(filepath.Join(m.dir, version), 0o700); err != nil {
		m.t.Fatal(err)
	}
	write(m.t, filepath.Join(m.dir, version, "tls.crt"), p.cert)
	write(m.t, filepath.Join(m.dir, version, "tls.key"), p.key)
	link := filepath.Join(m.dir, "..data_tmp")
	if err := os.Symlink(version, link); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(m.dir, "..data")); err != nil {
		m.t.Fatal(err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
