//! Objects as they were stored before the schema was tightened.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use serde_json::json;
use storefence_devstack::shared_cluster;
use storefence_tenancy::{RetailTenant, resource::crd};

use super::World;

impl World {
    /// Loosens the definition, so that anything can be stored from now on.
    pub async fn loosen(&self) {
        let mut loose = serde_json::to_value(crd()).unwrap();
        loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let name = "retailtenants.retail.storefence.dev";
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": name}, "spec": loose["spec"]});
        let definitions = Api::<CustomResourceDefinition>::all(self.kube.clone());
        definitions.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(definition)).await.unwrap();
        shared_cluster::wait_served(&self.kube, &self.namespace("retail"), false).await.unwrap();
    }

    /// The tenants of a namespace, readable or not.
    pub fn objects(&self, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<RetailTenant>(&());
        Api::namespaced_with(self.kube.clone(), &self.namespace(namespace), &resource)
    }
}
