package node

import (
	"crypto/tls"
	"crypto/x509"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// brokerTLS is how connections to a cluster's brokers are secured.
func brokerTLS(c *snapshot.Cluster, key secret.Secret) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	if len(c.TLSCA) > 0 {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(c.TLSCA) {
			return nil, fault.New(fault.InvalidArgument, "cluster %s: the CA holds no certificate in PEM form; set it again", c.Name)
		}
	}
	if len(c.TLSCert) > 0 {
		pair, err := tls.X509KeyPair(c.TLSCert, []byte(key.Reveal()))
		if err != nil {
			return nil, fault.Wrap(err, fault.InvalidArgument, "cluster %s: client certificate and key do not belong together; set both again", c.Name)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
