//! In a cluster: what operator, gateway and PostgreSQL need to know about the stand-ins, as a ConfigMap and Secrets
//! beside them. Pods that refer to them wait until they are there, so nobody has to say in which order things start.
//!
//! Everything is made once and found again after a restart: the pods around have read it when they started.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
};

use crate::{
    entra::{ClientApp, principals},
    tls::Authority,
};

type Values = BTreeMap<String, String>;

/// Objects of one namespace whose names begin with `name`.
pub(super) struct Published {
    name: String,
    configs: Api<ConfigMap>,
    secrets: Api<Secret>,
}

impl Published {
    /// In the namespace that this pod, or the current context of `KUBECONFIG`, is in.
    pub async fn connect(name: &str) -> Result<Self> {
        let client = Client::try_default().await.context("--publish needs a cluster")?;
        Ok(Self {
            name: name.to_owned(),
            configs: Api::default_namespaced(client.clone()),
            secrets: Api::default_namespaced(client),
        })
    }

    /// The certificate authority of all stand-ins. Nobody mounts its Secret.
    pub async fn authority(&self) -> Result<Authority> {
        let kept = self.kept("authority", |values| {
            values.insert("key.pem".to_owned(), Authority::new()?.key_pem());
            Ok(())
        });
        Ok(Authority::restore(&kept.await?["key.pem"])?)
    }

    /// An application with a client secret, as environment for its container.
    pub async fn application(&self, part: &str) -> Result<ClientApp> {
        let kept = self
            .kept(part, |values| {
                let app = ClientApp::with_secret(principals::ZAVA_TENANT_ID);
                values.insert("AZURE_TENANT_ID".to_owned(), app.tenant_id);
                values.insert("AZURE_CLIENT_ID".to_owned(), app.client_id);
                values.insert("AZURE_CLIENT_SECRET".to_owned(), app.secret.unwrap_or_default());
                Ok(())
            })
            .await?;
        let of = |key: &str| kept.get(key).cloned().with_context(|| format!("Secret {}-{part}: no {key}", self.name));
        Ok(ClientApp {
            client_id: of("AZURE_CLIENT_ID")?,
            secret: Some(of("AZURE_CLIENT_SECRET")?),
            ..ClientApp::with_secret(&of("AZURE_TENANT_ID")?)
        })
    }

    /// The password of PostgreSQL's administrator, and their URL for the operator.
    pub async fn database(&self, address: &str) -> Result<String> {
        let kept = self
            .kept("database", |values| {
                let password = crate::random::password();
                let url = super::serve::admin_url(&password, address);
                values.insert("password".to_owned(), password);
                values.insert("admin-url".to_owned(), url);
                Ok(())
            })
            .await?;
        kept.get("admin-url").cloned().with_context(|| format!("Secret {}-database: no admin-url", self.name))
    }

    /// The trust root. Operator and gateway mount it, so it comes when everything else is there.
    pub async fn trust(&self, authority: &Authority) -> Result<()> {
        let object = ConfigMap {
            metadata: self.metadata("trust"),
            data: Some(BTreeMap::from([("ca.pem".to_owned(), authority.pem().to_owned())])),
            ..ConfigMap::default()
        };
        let name = format!("{}-trust", self.name);
        self.configs
            .patch(&name, &manager(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("ConfigMap {name}"))?;
        Ok(())
    }

    /// What a Secret of an earlier start holds, or what is made now.
    async fn kept(&self, part: &str, make: impl FnOnce(&mut Values) -> Result<()>) -> Result<Values> {
        let name = format!("{}-{part}", self.name);
        if let Some(secret) = self.secrets.get_opt(&name).await.with_context(|| format!("Secret {name}"))? {
            let text = |bytes: ByteString| String::from_utf8(bytes.0).context("not UTF-8");
            let data = secret.data.unwrap_or_default().into_iter();
            return data.map(|(key, bytes)| Ok((key, text(bytes)?))).collect();
        }
        let mut values = Values::new();
        make(&mut values)?;
        let data = values.iter().map(|(key, value)| (key.clone(), ByteString(value.clone().into_bytes()))).collect();
        let object = Secret { metadata: self.metadata(part), data: Some(data), ..Secret::default() };
        self.secrets
            .patch(&name, &manager(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("Secret {name}"))?;
        Ok(values)
    }

    fn metadata(&self, part: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(format!("{}-{part}", self.name)),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                "storefence-devstack".to_owned(),
            )])),
            ..ObjectMeta::default()
        }
    }
}

fn manager() -> PatchParams {
    PatchParams::apply("storefence-devstack").force()
}
