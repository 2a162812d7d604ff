"""Are synthetic patches realistic, and do they represent their reference images?"""
